//! The tunnel: frames, transports, the edge, the links of a gateway, inner TLS, certificates.
#![forbid(unsafe_code)]
