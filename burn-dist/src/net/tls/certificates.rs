//! Certificates as they are read from files, and the rules of rustls made from them: TLS 1.3 alone, a
//! certificate on both sides, no sessions that are taken up again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct,
    DistinguishedName, RootCertStore, ServerConfig, ServerConnection, SignatureScheme, version,
};
use zeroize::Zeroizing;

use crate::net::channel::Role;
use crate::net::files;

/// Default name in certificates.
const NAME: &str = "burn-dist";
/// Most bytes of a file. Chains of certificates have a few thousand.
const MAX_FILE_BYTES: usize = 1 << 20;

/// A certificate with its key, the CA that it trusts, and the name that it expects.
#[derive(Clone)]
pub(crate) struct Credentials {
    certificate: PathBuf,
    ca: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    roots: Arc<RootCertStore>,
    name: ServerName<'static>,
    rules: Arc<Rules>,
}

/// Configurations by which both roles verify the other side.
struct Rules {
    server: Arc<dyn ServerCertVerifier>,
    client: Arc<dyn ClientCertVerifier>,
    connects: Arc<ClientConfig>,
    accepts: Arc<ServerConfig>,
}

impl Credentials {
    /// Reads the files.
    pub(super) fn load(certificate: &Path, key: &Path, ca: &Path) -> Result<Self, String> {
        let chain = read_certificates("certificate", certificate)?;
        let bytes = bounded("key", key, files::read_private(key, MAX_FILE_BYTES))?;
        let parsed = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
            let what = "it holds no private key in PEM's format that is not encrypted";
            named("key", key, what)
        })?;
        let mut roots = RootCertStore::empty();
        for root in read_certificates("CA", ca)? {
            let what = "it holds a certificate that can't be a CA's";
            roots
                .add(root)
                .map_err(|error| named("CA", ca, &format!("{what}: {error}")))?;
        }
        let (roots, parsed) = (Arc::new(roots), Arc::new(parsed));
        let name = ServerName::try_from(NAME).map_err(|error| error.to_string())?;
        let rules = Rules::new(&chain, &parsed, &roots, &name).map_err(|error| {
            let (certificate, key) = (certificate.display(), key.display());
            format!(
                "the certificate {certificate} and the key {key} can't be used together: {error}"
            )
        })?;
        Ok(Self {
            certificate: certificate.to_owned(),
            ca: ca.to_owned(),
            chain,
            key: parsed,
            roots,
            name,
            rules: Arc::new(rules),
        })
    }

    /// The same with another name.
    pub(super) fn named(self, name: &str) -> Result<Self, String> {
        let wrong = |what: &dyn std::fmt::Display| {
            format!("{name:?} can't be the name in certificates: {what}")
        };
        let given = ServerName::try_from(name.to_owned()).map_err(|error| wrong(&error))?;
        let rules = Rules::new(&self.chain, &self.key, &self.roots, &given);
        Ok(Self {
            rules: Arc::new(rules.map_err(|error| wrong(&error))?),
            name: given,
            ..self
        })
    }

    /// Verifies this process's own certificate as the others will, in both roles.
    pub(super) fn check(&self) -> Result<(), String> {
        let now = UnixTime::now();
        // Reading it found at least one certificate.
        let [own, between @ ..] = &self.chain[..] else {
            return Err(named("certificate", &self.certificate, "it holds none"));
        };
        let server = &self.rules.server;
        let accepts = server.verify_server_cert(own, between, &self.name, &[], now);
        let connects = self.rules.client.verify_client_cert(own, between, now);
        accepts.map(drop).and(connects.map(drop)).map_err(|error| {
            let what = match &error {
                rustls::Error::InvalidCertificate(error) => describe(error),
                other => format!("is not accepted: {other}"),
            };
            let (certificate, ca) = (self.certificate.display(), self.ca.display());
            format!("this process's certificate {certificate} {what} (the job's CA: {ca})")
        })
    }

    /// A new session.
    pub(crate) fn connection(&self, role: Role) -> Result<Connection, rustls::Error> {
        Ok(match role {
            Role::Connects => {
                let rules = Arc::clone(&self.rules.connects);
                Connection::Client(ClientConnection::new(rules, self.name.clone())?)
            }
            Role::Accepts => {
                let rules = Arc::clone(&self.rules.accepts);
                Connection::Server(ServerConnection::new(rules)?)
            }
        })
    }
}

impl Rules {
    fn new(
        chain: &[CertificateDer<'static>],
        key: &PrivateKeyDer<'static>,
        roots: &Arc<RootCertStore>,
        name: &ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        let general = |error: &dyn std::fmt::Display| rustls::Error::General(error.to_string());
        let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
        let (roots, with) = (Arc::clone(roots), Arc::clone(&provider));
        let server = WebPkiServerVerifier::builder_with_provider(roots.clone(), with)
            .build()
            .map_err(|error| general(&error))?;
        let of_ca = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| general(&error))?;
        let client = Arc::new(NamedVerifier {
            of_ca,
            name: name.clone(),
        });
        let mut accepts = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(client.clone())
            .with_single_cert(chain.to_vec(), key.clone_key())?;
        // A connection is made once: there is nothing to take up again.
        accepts.send_tls13_tickets = 0;
        accepts.session_storage = Arc::new(NoServerSessionStorage {});
        let mut connects = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_webpki_verifier(Arc::clone(&server))
            .with_client_auth_cert(chain.to_vec(), key.clone_key())?;
        connects.resumption = Resumption::disabled();
        // The other side has one certificate, and others need not read which.
        connects.enable_sni = false;
        Ok(Self {
            server,
            client,
            connects: Arc::new(connects),
            accepts: Arc::new(accepts),
        })
    }
}

/// Verifies the certificate of the connecting side by the CA and by the name, as that side verifies the other.
#[derive(Debug)]
struct NamedVerifier {
    of_ca: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

impl ClientCertVerifier for NamedVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.of_ca.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .of_ca
            .verify_client_cert(end_entity, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.of_ca.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.of_ca.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.of_ca.supported_verify_schemes()
    }
}

/// Describes the defect of a certificate, as the end of a sentence about it.
pub(crate) fn describe(error: &CertificateError) -> String {
    use CertificateError as Of;
    match error {
        Of::Expired | Of::ExpiredContext { .. } => "has expired".to_owned(),
        Of::NotValidYet | Of::NotValidYetContext { .. } => {
            "is not valid yet, or a clock is wrong".to_owned()
        }
        Of::UnknownIssuer | Of::BadSignature => "was not signed by the job's CA".to_owned(),
        Of::NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "is not for the name {:?} (but for {presented:?}); give it that name as its subject \
             alternative name, or give the job the certificates' name (BURN_DIST_TLS_NAME)",
            expected.to_str()
        ),
        Of::NotValidForName => "is not for the job's name".to_owned(),
        Of::InvalidPurpose | Of::InvalidPurposeContext { .. } => {
            "may not be used by both sides of a connection; give its extended key usage serverAuth \
             and clientAuth, or leave it out"
                .to_owned()
        }
        other => format!("is not accepted: {other}"),
    }
}

fn read_certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = bounded(what, path, files::read(path, MAX_FILE_BYTES))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates =
        certificates.map_err(|error| named(what, path, &format!("it is no PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(named(what, path, "it holds no certificate in PEM's format"));
    }
    Ok(certificates)
}

/// A file's bytes, if they could be read and are not too many.
fn bounded(
    what: &str,
    path: &Path,
    read: Result<Zeroizing<Vec<u8>>, String>,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let bytes = read.map_err(|error| named(what, path, &error))?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(named(
            what,
            path,
            &format!("it has more than {MAX_FILE_BYTES} bytes"),
        ));
    }
    Ok(bytes)
}

fn named(what: &str, path: &Path, error: &str) -> String {
    format!(
        "the file with the {what} for TLS, {}: {error}",
        path.display()
    )
}
