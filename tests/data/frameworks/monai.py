"""A training program as users of MONAI write it: there is nothing to say about it."""

import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from monai.inferers import SimpleInferer
from monai.losses import DiceLoss
from monai.networks.nets import UNet


def main(train_set, val_set):
    device = torch.device("cuda")
    model = UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=(8, 16), strides=(2,)).to(device)
    evaluator = SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(val_set, batch_size=4, num_workers=2),
        network=model,
        inferer=SimpleInferer(),
    )
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=3,
        train_data_loader=DataLoader(train_set, batch_size=4, shuffle=True, num_workers=2),
        network=model,
        optimizer=torch.optim.Adam(model.parameters(), 1e-3),
        loss_function=DiceLoss(sigmoid=True),
        train_handlers=[ValidationHandler(1, evaluator)],
    )
    trainer.run()
