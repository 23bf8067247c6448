//! An authority of a test, and the certificates that it signs, as PEM files in a directory of their own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Use, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

/// By these a process on this machine is reached.
pub const LOCAL: &[&str] = &["localhost", "127.0.0.1"];

/// Signs certificates. Its files go with it.
#[derive(Debug)]
pub struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
    issued: AtomicU32,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate's file.
    pub cert: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    /// Now.
    Now,
    /// No longer.
    Before,
    /// In two seconds.
    Soon,
    /// Not yet.
    Later,
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// When its file cannot be written.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("signed");
        std::fs::write(dir.path().join("ca.pem"), cert.pem()).expect("writable");
        Self { dir, issuer: Issuer::new(params, key), issued: AtomicU32::new(0) }
    }

    /// Its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate of a component on this machine, in files of its own.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn issue(&self) -> Pair {
        self.issue_for(LOCAL, Valid::Now, &[Use::ServerAuth, Use::ClientAuth])
    }

    /// [`Self::issue`], valid at another time.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn issue_valid(&self, when: Valid) -> Pair {
        self.issue_for(LOCAL, when, &[Use::ServerAuth, Use::ClientAuth])
    }

    /// [`Self::issue`], for other names.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn issue_named(&self, names: &[&str]) -> Pair {
        self.issue_for(names, Valid::Now, &[Use::ServerAuth, Use::ClientAuth])
    }

    /// [`Self::issue`], for servers only.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn issue_to_server(&self) -> Pair {
        self.issue_for(LOCAL, Valid::Now, &[Use::ServerAuth])
    }

    #[allow(clippy::disallowed_methods, reason = "certificates are judged by the machine's clock")]
    fn issue_for(&self, names: &[&str], when: Valid, uses: &[Use]) -> Pair {
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, format!("certificate {number}"));
        params.extended_key_usages = uses.to_vec();
        let year = |year| date_time_ymd(year, 1, 1);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        (params.not_before, params.not_after) = match when {
            Valid::Now => (year(2020), year(2100)),
            Valid::Before => (year(2020), year(2021)),
            Valid::Soon => (year(1970) + since_1970 + Duration::from_secs(2), year(2100)),
            Valid::Later => (year(2099), year(2100)),
        };
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        let [cert_path, key_path] =
            ["cert", "key"].map(|what| self.dir.path().join(format!("{number}.{what}.pem")));
        std::fs::write(&cert_path, cert.pem()).expect("writable");
        std::fs::write(&key_path, key.serialize_pem()).expect("writable");
        Pair { cert: cert_path, key: key_path }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Pair {
    /// Puts another pair's contents into these files, each at once.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn replace_by(&self, other: &Self) {
        for (from, to) in [(&other.cert, &self.cert), (&other.key, &self.key)] {
            let beside = beside(to);
            std::fs::copy(from, &beside).expect("writable");
            std::fs::rename(&beside, to).expect("a file");
        }
    }

    /// The flags that name it.
    pub fn flags(&self) -> [String; 2] {
        [format!("--tls-cert={}", self.cert.display()), format!("--tls-key={}", self.key.display())]
    }
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}
