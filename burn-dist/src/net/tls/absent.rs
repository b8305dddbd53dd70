//! Stands in for certificates without the feature `tls`: an error that says so.

use std::path::Path;

/// Certificates, of which there are none.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {}

impl Credentials {
    pub(super) fn load(_: &Path, _: &Path, _: &Path) -> Result<Self, String> {
        Err(
            "certificates were given for TLS, but this program was built without it; build it with \
             the feature `tls` of burn-dist"
                .to_owned(),
        )
    }

    pub(super) fn named(self, _: &str) -> Result<Self, String> {
        match self {}
    }

    pub(super) fn check(&self) -> Result<(), String> {
        match *self {}
    }
}
