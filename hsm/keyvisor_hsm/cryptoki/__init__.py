"""A raw binding to PKCS#11 modules: constants, native structures, functions. No policy."""

from keyvisor_hsm.cryptoki.attributes import CKA
from keyvisor_hsm.cryptoki.key_types import CKK
from keyvisor_hsm.cryptoki.mechanisms import CKM
from keyvisor_hsm.cryptoki.module import FUNCTIONS, FUNCTIONS_3_0, Module
from keyvisor_hsm.cryptoki.object_classes import CKO
from keyvisor_hsm.cryptoki.return_values import CKR

__all__ = ["CKA", "CKK", "CKM", "CKO", "CKR", "FUNCTIONS", "FUNCTIONS_3_0", "Module"]
