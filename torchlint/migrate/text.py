"""The text that a migrated script gains: a few small functions, written so that the user would keep them."""

from __future__ import annotations

SETUP = '''
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))


def setup_distributed():
    """Join the processes that torchrun started; without torchrun, be a group of one."""
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(LOCAL_RANK)
        backend = "cpu:gloo,cuda:nccl"
    if "RANK" in os.environ:
        {dist}.init_process_group(backend)
    else:
        {dist}.init_process_group(backend, store={dist}.HashStore(), rank=0, world_size=1)


def distributed(model):
    """One replica of the model per process; their gradients are averaged in backward."""
    on_gpu = next(model.parameters()).is_cuda
    return {ddp}(model, device_ids=[LOCAL_RANK] if on_gpu else None)
'''

IS_MAIN = '''

def is_main():
    """Whether this is the one process that prints and saves."""
    return int(os.environ.get("RANK", 0)) == 0
'''

PRINT = """

def print_on_main(*args, **kwargs):
    if is_main():
        print(*args, **kwargs)
"""

SAVE = """

def save_on_main(*args, **kwargs):
    if is_main():
        torch.save(*args, **kwargs)
"""

OPEN = """

def open_on_main(file, mode="w", *args, **kwargs):
    return open(file, mode, *args, **kwargs) if is_main() else open(os.devnull, mode.replace("x", "w"))
"""

UNHEARD = '''

class Unheard:
    """Stands where the first process has a writer or logger: takes every call and does nothing."""

    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        return self
'''

MEAN = '''

def mean_of_processes(value):
    """The mean of a number over all processes, so that they all decide alike."""
    total = torch.tensor(float(value), dtype=torch.float64)
    {dist}.all_reduce(total)
    return total.item() / {dist}.get_world_size()
'''

MAIN_FIRST = '''

@contextlib.contextmanager
def main_process_first():
    """Let the first process of each machine go first, so that a download happens once."""
    if LOCAL_RANK != 0:
        {dist}.barrier()
    yield
    if LOCAL_RANK == 0:
        {dist}.barrier()
'''

LAUNCH = "On all GPUs of one machine: torchrun --nproc_per_node={processes} {script}"

# Names that the text above defines: a script that uses one of them already is left alone.
DEFINES = (
    "LOCAL_RANK",
    "setup_distributed",
    "distributed",
    "is_main",
    "print_on_main",
    "save_on_main",
    "open_on_main",
    "Unheard",
    "mean_of_processes",
    "main_process_first",
)
