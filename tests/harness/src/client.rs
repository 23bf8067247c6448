//! Client commands of the binary, and other people's programs, as a user runs them. Their output goes to files, so that no pipe can fill
//! up while the test looks elsewhere.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Input, Tls, binary, limit, wait};

/// Runs commands against one server.
#[derive(Debug, Clone)]
pub struct Client {
    program: PathBuf,
    server: String,
    dir: PathBuf,
    variables: Vec<(String, String)>,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained about.
    pub stderr: String,
}

impl Finished {
    /// The output, when it went well.
    ///
    /// # Panics
    /// When the exit code is not 0.
    #[track_caller]
    pub fn ok(self) -> Vec<u8> {
        assert_eq!(self.code, Some(0), "stderr: {}", self.stderr);
        self.stdout
    }

    /// The line of complaint, when it was refused.
    ///
    /// # Panics
    /// When it exited with 0, or did not complain in exactly one line that ends with `reason`.
    #[track_caller]
    pub fn refused(self, reason: &str) -> String {
        assert_ne!(
            self.code,
            Some(0),
            "not refused; stdout: {:?}",
            String::from_utf8_lossy(&self.stdout)
        );
        let line = self.stderr.trim_end();
        assert_eq!(line.lines().count(), 1, "not one line: {line}");
        assert!(line.ends_with(&format!("({reason})")), "not {reason}: {line}");
        line.to_owned()
    }
}

impl Client {
    /// Commands against `server`, with their files in `dir`.
    pub fn new(server: &str, dir: &Path) -> Self {
        Self {
            program: binary::geminga(),
            server: server.to_owned(),
            dir: dir.to_owned(),
            variables: Vec::new(),
        }
    }

    /// The same commands of another build.
    #[must_use]
    pub fn of(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self
    }

    /// The same, by TLS.
    #[must_use]
    pub fn by(mut self, tls: &Tls) -> Self {
        self.variables = tls.variables();
        self
    }

    /// The server that commands go to.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Runs a command to its end with this input.
    ///
    /// # Panics
    /// When it cannot be started, or does not end in time.
    pub fn run_with(&self, args: &[&str], input: &[u8]) -> Finished {
        let mut running = self.spawn(args);
        running.feed(input);
        running.finish()
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started, or does not end in time.
    pub fn run(&self, args: &[&str]) -> Finished {
        self.run_with(args, b"")
    }

    /// Runs a command with `--output json` and reads what it prints.
    ///
    /// # Panics
    /// When it fails, or prints something else.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let args: Vec<&str> = args.iter().copied().chain(["--output", "json"]).collect();
        let stdout = self.run(&args).ok();
        serde_json::from_slice(&stdout)
            .unwrap_or_else(|e| panic!("{args:?}: {e}: {}", String::from_utf8_lossy(&stdout)))
    }

    /// Starts a command.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&self, args: &[&str]) -> Running {
        let mut command = Command::new(&self.program);
        command.args(args).env("GEMINGA_SERVER", &self.server);
        command.envs(self.variables.iter().cloned());
        let what = format!("geminga {}", args.join(" "));
        Running::start(command, args.first().copied().unwrap_or("geminga"), what, &self.dir)
    }
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    stdin: Option<Input>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Starts a program that is not ours, with its output in `dir`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn program(name: &str, args: &[&str], dir: &Path) -> Self {
        let mut command = Command::new(name);
        command.args(args);
        Self::command(command, name, dir)
    }

    /// As [`Self::program`], with all that is said of how it is to run.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn command(command: Command, name: &str, dir: &Path) -> Self {
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        let what = format!("{name} {}", args.join(" "));
        Self::start(command, name, what, dir)
    }

    fn start(mut command: Command, name: &str, what: String, dir: &Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let [stdout, stderr] = ["out", "err"].map(|end| dir.join(format!("{name}-{number}.{end}")));
        let create =
            |path: &Path| File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        command.stdin(Stdio::piped()).stdout(create(&stdout)).stderr(create(&stderr));
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{what}: {e}"));
        limit::started(child.id());
        let stdin = child.stdin.take().map(|stdin| Input::new(&what, stdin));
        Self { what, child, stdin, stdout, stderr }
    }

    /// Writes to its standard input. Blocks while the command does not read. A command that has ended loses it.
    ///
    /// # Panics
    /// When the input was closed before, or the command reads nothing for longer than a test waits.
    pub fn feed(&mut self, input: &[u8]) {
        // It says why it ended to whoever looks at its end.
        let _ = self.stdin.as_mut().expect("the input is open").write(input);
    }

    /// Its standard input, for a thread that feeds it.
    ///
    /// # Panics
    /// When it was closed or taken before.
    pub fn take_input(&mut self) -> Input {
        self.stdin.take().expect("the input is open")
    }

    /// Ends its standard input.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> Vec<u8> {
        std::fs::read(&self.stdout).unwrap_or_default()
    }

    /// The file of what it prints, for what is too much to hold.
    pub fn stdout_file(&self) -> &Path {
        &self.stdout
    }

    /// What it has complained about so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    /// Never for a child of our own.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("own child").is_none()
    }

    /// Kills it with -9 and waits until it is gone.
    pub fn kill(&mut self) {
        // Fails only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        limit::ended(self.child.id());
    }

    /// Tells it to stop in good order, and waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn interrupt(self) -> Finished {
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        // Fails only when it has ended by itself.
        let _ = kill_process(pid, Signal::TERM);
        self.finish()
    }

    /// Ends its input and waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn finish(self) -> Finished {
        self.finish_within(Duration::from_secs(120))
    }

    /// As [`Self::finish`], with its own deadline.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn finish_within(mut self, patience: Duration) -> Finished {
        let code = self.end_within(patience);
        Finished {
            code,
            stdout: self.stdout(),
            stderr: std::fs::read_to_string(&self.stderr).unwrap_or_default(),
        }
    }

    /// Ends its input and waits for its end; what it printed stays in its files. `None` when a signal ended it.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn end_within(&mut self, patience: Duration) -> Option<i32> {
        self.close();
        let what = format!("the end of `{}`", self.what);
        let child = &mut self.child;
        wait::within(patience, &what, || child.try_wait().expect("own child")).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let stderr = std::fs::read_to_string(&self.stderr).unwrap_or_default();
            eprintln!("---- {}: standard error:\n{stderr}", self.what);
        }
        self.kill();
    }
}
