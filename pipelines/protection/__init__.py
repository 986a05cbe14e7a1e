"""What happens to real values before anything learns from them or reports on them."""

from .detection import looks_personal as looks_personal
from .policy import OTHER as OTHER
from .policy import Protection as Protection
from .policy import check_declared as check_declared
from .policy import fit_protection as fit_protection
