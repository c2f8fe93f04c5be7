"""Read new facts about PyTorch builds and CUDA toolkits from public servers, and from the catalogue of a team."""
