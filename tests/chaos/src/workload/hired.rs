//! A client's process, and whoever started it: it is told to leave, killed in the middle, or held for a while. It never outlives
//! its owner, and takes nobody's place: each has a name of its own.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, ensure};
use geminga_check::Event;
use geminga_harness::{Host, is_held};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use super::Context;
use super::GAVE_UP;
use super::order::Order;

/// See the [module](self).
pub(super) struct Hired {
    pub(super) name: String,
    context: Context,
    child: Child,
    orders: Option<ChildStdin>,
    /// Some child of this process changed.
    changes: Signals,
}

impl Hired {
    /// Starts one of this role and name on `host`, with these arguments beside those that all have: this program again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(
        context: &Context,
        host: &Host,
        role: &str,
        name: &str,
        seed: u64,
        more: &[String],
    ) -> Result<Self> {
        let myself = std::env::current_exe().context("this program's file")?;
        let more: Vec<String> = [format!("--servers={}", context.servers)]
            .into_iter()
            .chain(more.iter().cloned())
            .collect();
        Self::start_program(context, host, &myself, role.as_ref(), name, seed, &more)
    }

    /// Starts another program: `script` comes before all arguments.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start_program(
        context: &Context,
        host: &Host,
        program: &Path,
        script: &OsStr,
        name: &str,
        seed: u64,
        more: &[String],
    ) -> Result<Self> {
        let changes = signal(SignalKind::child()).context("SIGCHLD")?;
        let (program, before) = host.command(program);
        let log = context.dir.join("clients.log");
        let log = OpenOptions::new().create(true).append(true).open(log).context("clients.log")?;
        let errors = log.try_clone().context("clients.log")?;
        let mut child = Command::new(program)
            .args(before)
            .arg(script)
            .args(["--name", name, "--history"])
            .arg(context.history.path())
            .arg(format!("--before={}", context.history.elapsed().as_micros()))
            .arg(format!("--seed={seed}"))
            .args(more)
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .with_context(|| name.to_owned())?;
        let orders = child.stdin.take();
        Ok(Self { name: name.to_owned(), context: context.clone(), child, orders, changes })
    }

    /// Tells it something. One that has ended hears nothing.
    pub(super) fn tell(&mut self, order: Order) {
        if let Some(orders) = &mut self.orders {
            // Its end is told by its status.
            let _ = writeln!(orders, "{}", order.word());
        }
    }

    /// Its status when it has ended. Does not wait.
    pub(super) fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| self.name.clone())
    }

    /// Waits until it has ended. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.has_ended()? {
                return Ok(status);
            }
            self.changes.recv().await;
        }
    }

    /// Kills it with -9 and writes that down once it is gone. Whether it had run until then.
    pub(super) async fn kill(mut self) -> Result<bool> {
        let ran = self.has_ended()?.is_none();
        // Fails only when it has ended.
        let _ = self.child.kill();
        self.ended().await?;
        self.context.history.write(&self.name, Event::Died {});
        Ok(ran)
    }

    /// Stops it from running.
    pub(super) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it run on. Whether it was held until then.
    pub(super) fn resume(&self) -> bool {
        let held = is_held(self.child.id());
        self.signal(Signal::CONT);
        held
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // Its status is not taken before it is waited for, so that nobody else has its id.
        let _ = kill_process(id.expect("a process has an id"), signal);
    }
}

/// A client that gave up has written down why. Any other end by itself is a fault of this program.
///
/// # Errors
/// When it was another end.
pub(super) fn gave_up(client: &Hired, status: ExitStatus) -> Result<()> {
    let known = status.code() == Some(GAVE_UP.into());
    ensure!(known, "{} ended with {status}: see clients.log", client.name);
    Ok(())
}

impl Drop for Hired {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
