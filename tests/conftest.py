from __future__ import annotations

import torch

# Tests run beside each other on few cores: threads that wait for each other would cost more than they bring.
torch.set_num_threads(1)
