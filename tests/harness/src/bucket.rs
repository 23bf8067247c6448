//! An S3-compatible server with one bucket, as the machines of tests have it: `s3s-fs` where it is installed, which keeps objects in files
//! and checks signatures; else moto of `.ci/install test`, which keeps them in memory or temporary files and checks none.

use std::path::{Path, PathBuf};

use crate::{Process, binary, http, port, wait};

/// The bucket's name, and what everybody signs with ([`Process`] hands it to servers).
const NAME: &str = "segments";
const CREDENTIAL: &str = "test";
/// Where objects begin in it.
const PREFIX: &str = "a/prefix";
/// Most objects that one listing of the server's names.
const MAX_LISTED: usize = 1000;

/// The server. It ends with this.
#[derive(Debug)]
pub struct Bucket {
    process: Process,
    address: String,
    /// Of the server that keeps objects in files.
    files: Option<PathBuf>,
}

impl Bucket {
    /// Starts the server, with its files and its log in `dir`, and makes the bucket.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(dir: &Path) -> Self {
        Self::start_at(&port::free_address(), dir)
    }

    /// [`Self::start`], where others look for it already ([`Self::flags_of`]).
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_at(address: &str, dir: &Path) -> Self {
        match program("s3s-fs") {
            Some(program) => Self::start_files(address, &program, dir),
            None => Self::start_memory(address, dir),
        }
    }

    fn start_files(address: &str, program: &Path, dir: &Path) -> Self {
        let (host, port) = address.split_once(':').expect("HOST:PORT");
        let root = dir.join("bucket");
        let files = root.join(NAME);
        std::fs::create_dir_all(&files).expect("a directory for objects");
        let keys = [format!("--access-key={CREDENTIAL}"), format!("--secret-key={CREDENTIAL}")];
        let at = [format!("--host={host}"), format!("--port={port}"), root.display().to_string()];
        let process = Process::start("s3", program, keys.into_iter().chain(at), dir);
        wait::until("the S3 server", || http::get(address, "/"));
        Self { process, address: address.to_owned(), files: Some(files) }
    }

    fn start_memory(address: &str, dir: &Path) -> Self {
        let (host, port) = address.split_once(':').expect("HOST:PORT");
        let program = binary::repository().join(".venv/bin/moto_server");
        let process = Process::start("s3", &program, ["-H", host, "-p", port], dir);
        wait::until("the S3 server", || http::get(address, "/moto-api/"));
        let made = http::request(address, "PUT", &format!("/{NAME}"));
        assert!(matches!(made, Some((200, _))), "the bucket: {made:?}");
        Self { process, address: address.to_owned(), files: None }
    }

    /// What servers are told, to use it.
    pub fn flags(&self) -> [String; 2] {
        Self::flags_of(&self.address)
    }

    /// What they are told of one at this address, there or not.
    pub fn flags_of(address: &str) -> [String; 2] {
        let url = format!("--object-store=s3://{NAME}/{PREFIX}");
        [url, format!("--object-store-endpoint=http://{address}")]
    }

    /// Stops it where it stands: connections stay open, and nothing answers.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// The server's name, for people.
    pub fn server(&self) -> &'static str {
        if self.files.is_some() { "s3s-fs" } else { "moto" }
    }

    /// How many objects of segments there are, and their bytes, as the server says.
    ///
    /// # Panics
    /// When it cannot be asked, or has more than it lists at once.
    pub fn segments(&self) -> (usize, u64) {
        let objects = match &self.files {
            Some(files) => below(files),
            None => self.listed(),
        };
        let segments = objects.into_iter().filter(|(name, _)| name.ends_with(".seg"));
        segments.fold((0, 0), |(count, bytes), (_, size)| (count + 1, bytes + size))
    }

    /// Moto refuses a listing while objects are removed: it is asked again.
    fn listed(&self) -> Vec<(String, u64)> {
        let what = format!("a listing of the S3 server: see {}", self.process.name());
        let text = wait::until(&what, || {
            let answer = http::get(&self.address, &format!("/{NAME}?list-type=2"));
            answer.and_then(|(code, text)| (code == 200).then_some(text))
        });
        let objects: Vec<_> = text.split("<Contents>").skip(1).map(object).collect();
        assert!(objects.len() < MAX_LISTED, "more objects than one listing has");
        objects
    }
}

/// Name and size, of one element of a listing.
fn object(xml: &str) -> (String, u64) {
    let field = |name: &str| {
        let (_, rest) = xml.split_once(&format!("<{name}>"))?;
        Some(rest.split_once('<')?.0)
    };
    let name = field("Key").unwrap_or_else(|| panic!("no key: {xml}"));
    let size = field("Size").and_then(|size| size.parse().ok());
    (name.to_owned(), size.unwrap_or_else(|| panic!("no size: {xml}")))
}

/// Names and sizes of all files below a directory.
fn below(dir: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => below(&entry.path()),
        Ok(meta) => vec![(entry.file_name().to_string_lossy().into_owned(), meta.len())],
        // Removed meanwhile.
        Err(_) => Vec::new(),
    };
    entries.flat_map(of).collect()
}

/// Where a program is, if it is installed.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_of_a_listing_is_read() {
        let xml = "<Key>a/prefix/x/1.seg</Key><ETag>e</ETag><Size>12</Size></Contents>";
        assert_eq!(object(xml), ("a/prefix/x/1.seg".to_owned(), 12));
    }
}
