"""A training program as users of the Hugging Face Trainer write it: there is nothing to say about it."""

from torch import nn
from transformers import Trainer, TrainingArguments


class Weighted(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


def main(model, train_set, val_set):
    arguments = TrainingArguments("out", num_train_epochs=3, gradient_accumulation_steps=4)
    trainer = Weighted(model=model, args=arguments, train_dataset=train_set, eval_dataset=val_set)
    trainer.train()
    trainer.evaluate()
