//! Empty until the tool tests are written.
