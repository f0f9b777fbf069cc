"""The published attacks on the PKCS#11 interface, one script each, against any module.

`python -m conformance.attacks NAME --module PATH` tries one; exit code 0 says that it got a key out, 1 that it was
refused. Sources: Clulow, "On the security of PKCS #11" (CHES 2003); Bortolozzo, Centenaro, Focardi, Steel, "Attacking
and fixing PKCS#11 security tokens" (CCS 2010), whose attacks a1 to a5 Tookan finds.
"""
