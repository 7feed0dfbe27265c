"""What torch, torchvision, torchaudio and functorch have deprecated or removed (mined), how calls are rewritten
(reviewed), and where code already minds the version."""
