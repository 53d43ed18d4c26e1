"""Secret key rates of QKD protocols, asymptotic and finite, as functions of the channel's attenuation."""
