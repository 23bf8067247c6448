//! A cluster of real processes on one machine: one etcd, bookies, brokers. Everything is below one temporary
//! directory and goes away with it.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::etcd::Etcd;
use crate::process::fail_points;
use crate::volume::Volume;
use crate::{Client, Host, Kafka, Pair, Process, Tls, binary, http, port, wait};

/// Bookies and brokers on one etcd.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they should end: clients of etcd before etcd, files last.
    /// The brokers, in the order of their start.
    pub brokers: Vec<Node>,
    /// The bookies, in the order of their start.
    pub bookies: Vec<Node>,
    /// Their metadata store.
    pub etcd: Etcd,
    volumes: Vec<Volume>,
    dir: TempDir,
    bookie_args: Vec<String>,
    broker_args: Vec<String>,
    program: PathBuf,
    tls: Option<Tls>,
}

/// One bookie or broker.
#[derive(Debug)]
pub struct Node {
    /// The process.
    pub process: Process,
    /// Where it is connected to.
    pub address: String,
    /// Where its probes are.
    pub http: String,
    /// Where a broker serves Kafka clients; a bookie does not.
    pub kafka: Option<String>,
    /// Its data directory; a broker has none.
    pub data_dir: Option<PathBuf>,
    /// How its probes are reached, if not plainly.
    pub tls: Option<Tls>,
}

impl Node {
    /// Starts a bookie on `host` that listens on `address`, with its files in `dir`, and `more` arguments; does not wait for it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn bookie(
        host: &Host,
        name: &str,
        address: &str,
        metastore: &str,
        dir: &Path,
        more: &[String],
    ) -> Self {
        Self::bookie_of(&binary::geminga(), host, name, address, metastore, dir, more)
    }

    fn bookie_of(
        program: &Path,
        host: &Host,
        name: &str,
        address: &str,
        metastore: &str,
        dir: &Path,
        more: &[String],
    ) -> Self {
        let data_dir = dir.join(name);
        let http = host.address();
        let args = [
            "bookie".to_owned(),
            format!("--metastore={metastore}"),
            format!("--data-dir={}", data_dir.display()),
            format!("--listen={address}"),
            format!("--http={http}"),
            format!("--id={name}"),
        ];
        let args = args.into_iter().chain(more.iter().cloned());
        let process = start(program, host, name, args, dir);
        Self {
            process,
            address: address.to_owned(),
            http,
            kafka: None,
            data_dir: Some(data_dir),
            tls: None,
        }
    }

    /// Starts a broker on `host` that listens on `address`, with its log in `dir`, and `more` arguments; does not wait for it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn broker(
        host: &Host,
        name: &str,
        address: &str,
        metastore: &str,
        dir: &Path,
        more: &[String],
    ) -> Self {
        Self::broker_of(&binary::geminga(), host, name, address, metastore, dir, more)
    }

    fn broker_of(
        program: &Path,
        host: &Host,
        name: &str,
        address: &str,
        metastore: &str,
        dir: &Path,
        more: &[String],
    ) -> Self {
        let (http, kafka) = (host.address(), host.address());
        let args = [
            "serving".to_owned(),
            format!("--metastore={metastore}"),
            format!("--grpc={address}"),
            format!("--http={http}"),
            format!("--kafka={kafka}"),
        ];
        let args = args.into_iter().chain(more.iter().cloned());
        let process = start(program, host, name, args, dir);
        Self {
            process,
            address: address.to_owned(),
            http,
            kafka: Some(kafka),
            data_dir: None,
            tls: None,
        }
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Panics
    /// When the process ends meanwhile, or does not get ready in time.
    pub fn wait_ready(&mut self) {
        let what = format!("{} to be ready", self.process.name());
        let process = &mut self.process;
        let (address, tls) = (&self.http, &self.tls);
        wait::until(&what, || {
            assert!(process.is_running(), "{} ended instead of getting ready", process.name());
            let ready = match tls {
                None => http::is_ready(address),
                Some(tls) => http::is_ready_by(tls, address),
            };
            ready.then_some(())
        });
    }

    /// Kills it with -9, starts it again with the same arguments and waits until it is ready.
    ///
    /// # Panics
    /// As [`Self::wait_ready`].
    pub fn crash_and_restart(&mut self) {
        self.process.kill();
        self.process.restart();
        self.wait_ready();
    }
}

fn start(
    program: &Path,
    host: &Host,
    name: &str,
    args: impl Iterator<Item = String>,
    dir: &Path,
) -> Process {
    let (program, before) = host.command(program);
    let args = args.chain(host.exposure()).map(Into::into);
    Process::start(name, &program, before.into_iter().chain(args), dir)
}

impl Cluster {
    /// Starts etcd, bookies and brokers, and waits until all are ready.
    ///
    /// # Panics
    /// When one of them does not start.
    pub fn start(bookies: usize, brokers: usize) -> Self {
        Self::start_on(Etcd::start(), bookies, brokers)
    }

    /// [`Self::start`] on an etcd that the test made.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_on(etcd: Etcd, bookies: usize, brokers: usize) -> Self {
        Self::launch(etcd, bookies, brokers, &[], &[], None)
    }

    /// [`Self::start`] with more arguments for every bookie and every broker, also those that are added later.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_with(
        bookies: usize,
        brokers: usize,
        bookie_args: &[&str],
        broker_args: &[&str],
    ) -> Self {
        Self::launch(Etcd::start(), bookies, brokers, bookie_args, broker_args, None)
    }

    /// [`Self::start`] with TLS everywhere: all components show that certificate, and clients have to show one.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_tls(ca: &Path, pair: &Pair, bookies: usize, brokers: usize) -> Self {
        Self::start_tls_for(ca, pair, (bookies, brokers), "required")
    }

    /// The same, where `clients` says whether clients have to show one.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_tls_for(
        ca: &Path,
        pair: &Pair,
        (bookies, brokers): (usize, usize),
        clients: &str,
    ) -> Self {
        let [cert, key] = pair.flags();
        let ca_flag = format!("--tls-ca={}", ca.display());
        let internal = [cert.as_str(), &key, &ca_flag];
        let client_auth = format!("--tls-client-auth={clients}");
        let outer = [cert.as_str(), &key, &ca_flag, &client_auth];
        let etcd = Etcd::start_tls(ca, pair);
        let tls = Tls::new(ca.to_owned(), Some(pair.clone()));
        Self::launch(etcd, bookies, brokers, &internal, &outer, Some(tls))
    }

    fn launch(
        etcd: Etcd,
        bookies: usize,
        brokers: usize,
        bookie_args: &[&str],
        broker_args: &[&str],
        tls: Option<Tls>,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [bookie_args, broker_args] = [bookie_args, broker_args]
            .map(|args| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        let (of_bookies, of_brokers) = (Vec::new(), Vec::new());
        let mut cluster = Self {
            brokers: of_brokers,
            bookies: of_bookies,
            etcd,
            volumes: Vec::new(),
            dir,
            bookie_args,
            broker_args,
            program: binary::geminga(),
            tls,
        };
        for _ in 0..bookies {
            cluster.add_bookie();
        }
        for _ in 0..brokers {
            cluster.add_broker();
        }
        cluster.wait_ready();
        cluster
    }

    /// A cluster of which nothing runs yet but etcd, with arguments as of [`Self::start_with`].
    ///
    /// # Panics
    /// When etcd does not start.
    pub fn unborn(bookie_args: &[&str], broker_args: &[&str]) -> Self {
        Self::launch(Etcd::start(), 0, 0, bookie_args, broker_args, None)
    }

    /// Which build of the binary the servers are that are added from now on.
    pub fn add_of(&mut self, program: &Path) {
        self.program = program.to_owned();
    }

    /// Kills all bookies and brokers with -9; etcd stays.
    pub fn kill_servers(&mut self) {
        for node in self.brokers.iter_mut().chain(&mut self.bookies) {
            node.process.kill();
        }
    }

    /// Where the metadata is, as servers are told.
    pub fn metastore(&self) -> String {
        let scheme = if self.etcd.is_tls() { "https" } else { "etcd" };
        format!("{scheme}://{}/test", self.etcd.endpoint())
    }

    /// Has the next process that comes to this place killed with -9, by itself (`geminga_runtime::fail_point`): that has happened once the
    /// file is gone.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn kill_at(&self, place: &str) -> PathBuf {
        let places = fail_points(self.dir());
        std::fs::create_dir_all(&places).expect("a directory of places to die at");
        let file = places.join(place);
        std::fs::write(&file, "").expect("a place to die at");
        file
    }

    /// Where the files of this cluster are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// [`Self::add_bookie`] with a disk of its own, of so many bytes.
    ///
    /// # Panics
    /// When it cannot be started, or the disk cannot be mounted, for which it takes root.
    pub fn add_bookie_on_a_small_disk(&mut self, bytes: u64) -> &mut Node {
        let name = format!("bookie-{}", self.bookies.len() + 1);
        self.volumes.push(Volume::mount(&self.dir().join(name), bytes));
        self.add_bookie_with(&["--disk-warn=85", "--disk-read-only=90", "--disk-hard=96"])
    }

    /// Fills the disks of [`Self::add_bookie_on_a_small_disk`] to so many percent, by files that are none of the bookies'.
    ///
    /// # Panics
    /// When they are fuller.
    pub fn fill_small_disks(&self, percent: u64) {
        self.volumes.iter().for_each(|volume| volume.fill(percent));
    }

    /// Starts one more bookie; does not wait for it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn add_bookie(&mut self) -> &mut Node {
        self.add_bookie_with(&[])
    }

    /// [`Self::add_bookie`] with arguments of its own beside those of all.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn add_bookie_with(&mut self, more: &[&str]) -> &mut Node {
        let name = format!("bookie-{}", self.bookies.len() + 1);
        let own = more.iter().map(|arg| (*arg).to_owned());
        let args: Vec<String> = self.bookie_args.iter().cloned().chain(own).collect();
        let bookie = Node::bookie_of(
            &self.program,
            &Host::here(),
            &name,
            &port::free_address(),
            &self.metastore(),
            self.dir(),
            &args,
        );
        self.bookies.push(Node { tls: self.tls.clone(), ..bookie });
        self.bookies.last_mut().expect("just pushed")
    }

    /// Starts one more broker; does not wait for it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn add_broker(&mut self) -> &mut Node {
        let name = format!("broker-{}", self.brokers.len() + 1);
        let broker = Node::broker_of(
            &self.program,
            &Host::here(),
            &name,
            &port::free_address(),
            &self.metastore(),
            self.dir(),
            &self.broker_args,
        );
        self.brokers.push(Node { tls: self.tls.clone(), ..broker });
        self.brokers.last_mut().expect("just pushed")
    }

    /// Waits until every process that was not stopped by the test is ready.
    ///
    /// # Panics
    /// When one of them ends, or does not get ready in time.
    pub fn wait_ready(&mut self) {
        for node in self.bookies.iter_mut().chain(&mut self.brokers) {
            if !node.process.was_stopped() {
                node.wait_ready();
            }
        }
    }

    /// Commands against the broker with this index.
    pub fn client(&self, broker: usize) -> Client {
        let client = Client::new(&self.brokers[broker].address, self.dir());
        match &self.tls {
            None => client,
            Some(tls) => client.by(tls),
        }
    }

    /// A connection of a Kafka client to the broker with this index.
    ///
    /// # Panics
    /// When it cannot be reached.
    pub fn kafka(&self, broker: usize) -> Kafka {
        Kafka::connect(
            self.brokers[broker].kafka.as_deref().expect("a broker serves Kafka clients"),
        )
    }

    /// Kills bookies, brokers and etcd with -9, all at once, and starts them again.
    ///
    /// # Panics
    /// When one of them does not get ready again.
    pub fn crash_everything(&mut self) {
        for node in self.brokers.iter_mut().chain(&mut self.bookies) {
            node.process.kill();
        }
        self.etcd.kill();
        self.etcd.restart();
        for node in self.bookies.iter_mut().chain(&mut self.brokers) {
            node.process.restart();
        }
        self.wait_ready();
    }
}
