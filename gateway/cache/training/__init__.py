"""How the verifier is made: pairs of questions, a fit, a calibration. Not imported by a gateway."""
