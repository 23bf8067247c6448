//! One real process under the test's control. Its output goes to a file; when a test fails, the end of it is shown.
//! It never outlives its owner.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::{limit, wait};

/// How much of a log a failing test shows.
const TAIL_BYTES: usize = 16 * 1024;

/// A process that can be killed, paused and started again with the same arguments.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts `program`; its output is appended to `<dir>/<name>.log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start<I, A>(name: &str, program: &Path, args: I, dir: &Path) -> Self
    where
        I: IntoIterator<Item = A>,
        A: Into<OsString>,
    {
        let mut process = Self {
            name: name.to_owned(),
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            log: dir.join(format!("{name}.log")),
            child: None,
        };
        process.restart();
        process
    }

    /// Starts it again with the same arguments.
    ///
    /// # Panics
    /// When it still runs, or cannot be started.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "{} was not stopped before it is started again", self.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap_or_else(|e| panic!("{}: {e}", self.log.display()));
        let errors = log.try_clone().expect("a file can be cloned");
        let mut command = Command::new(&self.program);
        // For the S3 server of the tests, which checks none of them.
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"] {
            command.env(name, "test");
        }
        command.args(&self.args).stdin(Stdio::null()).stdout(log).stderr(errors);
        // What the developer's shell exports must not reach the processes of a test.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("GEMINGA_") {
                command.env_remove(variable);
            }
        }
        // A test is not about how full the developer's disk is.
        for (name, percent) in [("WARN", "97"), ("READ_ONLY", "98"), ("HARD", "99")] {
            command.env(format!("GEMINGA_DISK_{name}"), percent);
        }
        command.env("GEMINGA_FAIL_POINTS", fail_points(self.log.parent().expect("a file's")));
        let child = command.spawn();
        let child = child.unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        limit::started(child.id());
        self.child = Some(child);
    }

    /// Which program it is from its next start on, with the same arguments.
    pub fn replace_by(&mut self, program: &Path) {
        self.program = program.to_owned();
    }

    /// Leaves out arguments that begin so, from its next start on.
    pub fn forget_args(&mut self, beginning: &str) {
        self.args.retain(|arg| !arg.to_string_lossy().starts_with(beginning));
    }

    /// Its name in this test.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Kills it with -9 and waits until it is gone. No effect when it has ended.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only when the process ended by itself, which is what is asked for.
            let _ = child.kill();
            let _ = child.wait();
            limit::ended(child.id());
        }
    }

    /// Asks it to stop with SIGTERM and waits until it has.
    ///
    /// # Panics
    /// When it does not run, or does not end in time.
    pub fn terminate(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.wait()
    }

    /// Asks it to stop with SIGTERM; [`Self::wait`] waits until it has.
    ///
    /// # Panics
    /// When it does not run.
    pub fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not run, or does not end in time.
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("{} to end", self.name);
        let child = self.child.as_mut().expect("it runs");
        let status = wait::until(&what, || child.try_wait().expect("own child"));
        limit::ended(child.id());
        self.child = None;
        status
    }

    /// Stops it from running (SIGSTOP), and waits until none of it runs: its connections stay open and nothing answers.
    ///
    /// # Panics
    /// When the system does not stop it in time.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let what = format!("{} to be held", self.name);
        wait::until(&what, || {
            // One that has ended answers nothing, either.
            states(self.id()).iter().all(|state| "TZX".contains(*state)).then_some(())
        });
    }

    /// Lets it run on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether the test stopped it, by whatever way; one that ended by itself was not.
    pub fn is_stopped(&self) -> bool {
        self.child.is_none()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().expect("own child").is_none(),
            None => false,
        }
    }

    /// Whether the test stopped it: one that ended by itself was not.
    pub fn was_stopped(&self) -> bool {
        self.child.is_none()
    }

    /// All that it wrote, over all its starts.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The process id.
    ///
    /// # Panics
    /// When it does not run.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Resident memory, bytes.
    #[track_caller]
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(path).expect("the process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib << 10
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, signal).unwrap_or_else(|e| panic!("{}: {e}", self.name));
    }

    /// Shows the end of the log, for a test that fails.
    fn show_tail(&mut self) {
        let state = match self.child.as_mut().map(Child::try_wait) {
            None => "stopped by the test".to_owned(),
            Some(Ok(None)) => "running".to_owned(),
            Some(Ok(Some(status))) => match status.signal() {
                Some(signal) => format!("ended by signal {signal}"),
                None => format!("{status}"),
            },
            Some(Err(error)) => error.to_string(),
        };
        eprintln!("---- {} ({state}), end of its log:", self.name);
        eprintln!("{}", tail(&self.log));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_tail();
        }
        self.kill();
    }
}

/// Whether the system holds all threads of the process with this id, as SIGSTOP has it.
pub fn is_held(id: u32) -> bool {
    let states = states(id);
    !states.is_empty() && states.iter().all(|state| *state == 'T')
}

/// The state of each thread, as `ps` shows it. Empty: there is no such process.
fn states(id: u32) -> Vec<char> {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let stats =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    // The name before may hold anything.
    stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
}

/// Where processes with their logs in `dir` look for places to die at.
pub(crate) fn fail_points(dir: &Path) -> PathBuf {
    dir.join("fail-points")
}

fn tail(path: &Path) -> String {
    match std::fs::read(path) {
        Ok(bytes) => {
            let from = bytes.len().saturating_sub(TAIL_BYTES);
            String::from_utf8_lossy(&bytes[from..]).into_owned()
        }
        Err(error) => format!("{}: {error}", path.display()),
    }
}
