//! A real registry, Debian's `docker-registry` on a free loopback port, and a faulty one.

mod faulty;
mod honest;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

pub use faulty::{Answer, Faulty, Reply, Request, reply};
pub use honest::honest;

/// A running registry with a storage of its own. Dropping it ends the process and removes the
/// storage.
#[derive(Debug)]
pub struct Registry {
    /// Where it listens; also the registry part of a reference.
    pub addr: SocketAddr,
    child: Child,
    storage: TempDir,
}

/// Who may use a registry of [`Registry::start_closed`].
pub const USER: &str = "alice";

/// Her password.
pub const PASSWORD: &str = "wonder:land 1";

/// The same by bcrypt, made with crypt(3).
const PASSWORD_HASH: &str = "$2y$05$abcdefghijklmnopqrstuuitayMcqAGSfB/k3Rh1YpQx4gGGiLmv2";

/// How long the registry may take to listen.
const START: Duration = Duration::from_secs(20);

/// How long requests may take that are under way when it is asked to end.
const DRAIN: Duration = Duration::from_secs(20);

impl Registry {
    /// Starts one over plain HTTP.
    ///
    /// # Errors
    /// If `docker-registry` is not installed or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(None, false)
    }

    /// Starts one over plain HTTP that only [`USER`] with [`PASSWORD`] may use.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_closed() -> Result<Self> {
        Self::start_with(None, true)
    }

    /// Starts one over TLS with a certificate chain and a key, both PEM files.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_tls(certificate: &Path, key: &Path) -> Result<Self> {
        Self::start_with(Some((certificate, key)), false)
    }

    /// As [`Registry::start_tls`], for clients only that show the same certificate.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_mutual_tls(certificate: &Path, key: &Path) -> Result<Self> {
        Self::start_with(Some((certificate, key)), true)
    }

    fn start_with(tls: Option<(&Path, &Path)>, closed: bool) -> Result<Self> {
        // Between finding a free port and the registry's own bind somebody else may take it.
        let mut last = None;
        for _ in 0..5 {
            match Self::try_start(tls, closed) {
                Ok(registry) => return Ok(registry),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no attempt was made")))
    }

    fn try_start(tls: Option<(&Path, &Path)>, closed: bool) -> Result<Self> {
        let storage = tempfile::Builder::new()
            .prefix("gourd-registry-")
            .tempdir()?;
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (is_tls, clients) = (tls.is_some(), tls.filter(|_| closed));
        let clients = clients.map_or_else(String::new, |(certificate, _)| {
            format!("    clientcas:\n      - {}\n", certificate.display())
        });
        let tls = tls.map_or_else(String::new, |(certificate, key)| {
            format!(
                "  tls:\n    certificate: {}\n    key: {}\n{clients}",
                certificate.display(),
                key.display()
            )
        });
        let users = storage.path().join("users");
        fs::write(&users, format!("{USER}:{PASSWORD_HASH}\n"))?;
        let auth = match closed && !is_tls {
            true => format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                users.display()
            ),
            false => String::new(),
        };
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    \
             enabled: true\nhttp:\n  addr: {addr}\n  draintimeout: {}s\n{tls}{auth}",
            storage.path().join("data").display(),
            DRAIN.as_secs()
        );
        let config_path = storage.path().join("config.yml");
        fs::write(&config_path, config)?;
        let log = fs::File::create(storage.path().join("log"))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config_path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .env("OTEL_TRACES_EXPORTER", "none")
            .spawn()
            .context("docker-registry is needed: install the package docker-registry")?;
        let mut registry = Self {
            addr,
            child,
            storage,
        };
        registry.wait_until_it_listens()?;
        Ok(registry)
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < START {
            if TcpStream::connect(self.addr).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("docker-registry ended with {status}: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!(
            "docker-registry did not listen within {START:?}: {}",
            self.log()
        )
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.storage.path().join("log")).unwrap_or_default()
    }

    /// Ends it when all that it was asked for is answered. How often each path was asked for by GET, as its access log
    /// says: the registry writes a request there when it has answered it.
    ///
    /// # Errors
    /// If it cannot be told to end.
    pub fn finish(mut self) -> Result<BTreeMap<String, usize>> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        let mut gets = BTreeMap::new();
        for line in self.log().lines() {
            if let Some((_, rest)) = line.split_once("\"GET ")
                && let Some((path, _)) = rest.split_once(' ')
            {
                *gets.entry(path.to_owned()).or_default() += 1;
            }
        }
        Ok(gets)
    }

    /// `127.0.0.1:PORT/NAME`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.addr)
    }

    /// The directory that the registry keeps its content in, for damaging it.
    pub fn data(&self) -> std::path::PathBuf {
        self.storage.path().join("data")
    }

    /// Copies an image into the registry with `skopeo`, as `name`, such as `library/busybox:1`.
    /// `source` is as skopeo takes it: `oci:DIR:TAG`, `oci-archive:FILE:TAG`. Digests stay as they are.
    ///
    /// # Errors
    /// If skopeo is not installed or fails; its output is in the error.
    pub fn push(&self, source: &str, name: &str) -> Result<()> {
        let target = format!("docker://{}", self.reference(name));
        let output = Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--all",
                "--preserve-digests",
            ])
            .args(["--dest-tls-verify=false", source, &target])
            .stdin(Stdio::null())
            .output()
            .context("skopeo is needed: install the package skopeo")?;
        ensure!(
            output.status.success(),
            "skopeo copy {source} {target} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// A certificate of its own for a host, and its key, both PEM files, by openssl.
///
/// # Errors
/// If openssl is not installed or fails.
pub fn certificate(dir: &Path, host: &str) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-subj", "/CN=gourd test"])
        .args(["-addext", &format!("subjectAltName=DNS:{host}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-out")
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .stdin(Stdio::null())
        .output()
        .context("openssl is needed: install the package openssl")?;
    ensure!(
        output.status.success(),
        "openssl failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok((certificate, key))
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Nothing can be done about failures here; the process is a child and goes with the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
