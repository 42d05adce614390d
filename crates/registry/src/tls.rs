//! Whom to trust: the system's certificates, those of Docker's `certs.d`, or, where a person says so, anybody.
//!
//! `certs.d/HOST[:PORT]/` has `*.crt`, further authorities for that host, and `NAME.cert` with `NAME.key`, what we show it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::Error;

/// Configurations of TLS by host, each made when it is first needed: the system's certificates take a while to read.
#[derive(Debug)]
pub(crate) struct Tls {
    ca_file: Option<PathBuf>,
    folders: Vec<PathBuf>,
    /// The key `""` is for hosts of which nothing special is known.
    made: Mutex<HashMap<String, Arc<ClientConfig>>>,
}

/// What `certs.d` has for a host.
#[derive(Default)]
struct HostCertificates {
    authorities: Vec<CertificateDer<'static>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Tls {
    pub(crate) fn new(ca_file: Option<PathBuf>, folders: Vec<PathBuf>) -> Self {
        Self {
            ca_file,
            folders,
            made: Mutex::default(),
        }
    }

    /// The configuration for a host, and a name for those that share it. `insecure`: whatever certificate it shows is good.
    pub(crate) fn config(
        &self,
        authority: &str,
        insecure: bool,
    ) -> Result<(String, Arc<ClientConfig>), Error> {
        let folders = self.folders_of(authority);
        let key = match insecure || !folders.is_empty() {
            true => authority.to_owned(),
            false => String::new(),
        };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(&key) {
            return Ok((key, config.clone()));
        }
        let own = load_folders(&folders)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Roots(e.to_string()))?;
        let builder = if insecure {
            let verifier = Arc::new(Anybody(provider));
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
        } else {
            builder.with_root_certificates(self.roots(&own.authorities)?)
        };
        let config = match own.client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| {
                Error::Roots(format!("the client certificate for {authority}: {e}"))
            })?,
        };
        let config = Arc::new(config);
        made.insert(key.clone(), config.clone());
        Ok((key, config))
    }

    /// A configuration that trusts nobody, where one is asked for and never used.
    pub(crate) fn none() -> Result<Arc<ClientConfig>, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Roots(e.to_string()))?;
        let builder = builder.with_root_certificates(RootCertStore::empty());
        Ok(Arc::new(builder.with_no_client_auth()))
    }

    /// Whether `certs.d` has a folder for a host.
    pub(crate) fn knows(&self, authority: &str) -> bool {
        !self.folders_of(authority).is_empty()
    }

    fn folders_of(&self, authority: &str) -> Vec<PathBuf> {
        // A name of a folder is all that it may be.
        if authority.is_empty() || authority.contains('/') || authority.starts_with('.') {
            return Vec::new();
        }
        let folders = self.folders.iter().map(|dir| dir.join(authority));
        folders.filter(|dir| dir.is_dir()).collect()
    }

    fn roots(&self, more: &[CertificateDer<'static>]) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        let mut add = |certificate: CertificateDer<'static>| {
            let added = roots.add(certificate);
            added.map_err(|e| Error::Roots(format!("a certificate that is given is none: {e}")))
        };
        for certificate in more {
            add(certificate.clone())?;
        }
        if let Some(path) = &self.ca_file {
            for certificate in certificates(path)? {
                add(certificate)?;
            }
        }
        if roots.is_empty() {
            let why = found.errors.first().map(ToString::to_string);
            return Err(Error::Roots(why.unwrap_or_else(|| {
                "the system has none, install ca-certificates or set SSL_CERT_FILE".to_owned()
            })));
        }
        Ok(roots)
    }
}

fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::Roots(format!("{}: {why}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let parsed = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = parsed.map_err(|e| unreadable(path, &e))?;
    match certificates.is_empty() {
        true => Err(unreadable(path, &"there is no certificate in it")),
        false => Ok(certificates),
    }
}

fn load_folders(folders: &[PathBuf]) -> Result<HostCertificates, Error> {
    let mut found = HostCertificates::default();
    for folder in folders {
        let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(|e| unreadable(folder, &e))?;
        let mut paths: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(std::ffi::OsStr::to_str) {
                Some("crt") => found.authorities.extend(certificates(&path)?),
                Some("cert") => {
                    let key = path.with_extension("key");
                    let key =
                        PrivateKeyDer::from_pem_file(&key).map_err(|e| unreadable(&key, &e))?;
                    found.client = Some((certificates(&path)?, key));
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// For registries that a person named as insecure: anybody may say to be them.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
