//! How long a test may take. One that waits for ever would take the time of the whole run and name nobody: its processes are killed, so
//! that whatever it waits for fails, and if that does not end it, the run ends and says which test it was.
//!
//! A test is known by its thread, from the first process that it starts until the thread ends.

#![allow(
    clippy::disallowed_methods,
    reason = "what hangs has no runtime whose clock could be asked"
)]
#![allow(clippy::exit, reason = "the last resort against a test that nothing else ends")]

use std::io::Write;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Several times what the longest test of every change takes on a busy machine.
const LIMIT: Duration = Duration::from_mins(15);
/// What a test has to end in once its processes are dead: it waits for none of them for longer.
const GRACE: Duration = Duration::from_mins(4);
const PAUSE: Duration = Duration::from_secs(1);

struct Test {
    thread: ThreadId,
    name: String,
    since: Instant,
    limit: Duration,
    children: Vec<Child>,
}

/// A process that a test started. When it started tells it from whoever gets its number after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Child {
    id: u32,
    started: u64,
}

impl Child {
    /// The child of this process with this number, if there is one.
    fn of(id: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name before may hold anything; behind it are fields 3 (the state), 4 (the parent) and on (proc_pid_stat(5)).
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let parent: u32 = fields.get(1)?.parse().ok()?;
        let started = fields.get(19)?.parse().ok()?;
        (parent == std::process::id()).then_some(Self { id, started })
    }

    fn kill(self) {
        let id = i32::try_from(self.id).ok().and_then(Pid::from_raw);
        if let Some(id) = id.filter(|_| Self::of(self.id) == Some(self)) {
            // Fails only when it has ended by itself.
            let _ = kill_process(id, Signal::KILL);
        }
    }
}

static TESTS: Mutex<Vec<Test>> = Mutex::new(Vec::new());

fn tests() -> MutexGuard<'static, Vec<Test>> {
    TESTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the test off the list when its thread ends.
struct Here(ThreadId);

impl Drop for Here {
    fn drop(&mut self) {
        tests().retain(|test| test.thread != self.0);
    }
}

thread_local! {
    static HERE: Here = Here(thread::current().id());
}

/// The test of this thread may take so long: for one that is not run with every change.
pub fn set(limit: Duration) {
    of_this_thread(|test| test.limit = limit);
}

/// The test of this thread has started this process.
pub(crate) fn started(child: u32) {
    if let Some(child) = Child::of(child) {
        of_this_thread(|test| test.children.push(child));
    }
}

/// A process was waited for: its number may be another's from now on.
pub(crate) fn ended(child: u32) {
    for test in tests().iter_mut() {
        test.children.retain(|known| known.id != child);
    }
}

fn of_this_thread(change: impl FnOnce(&mut Test)) {
    static WATCHER: Once = Once::new();
    let current = thread::current();
    // Tests in modules are those whose threads have such names. What is no test has no limit.
    let Some(name) = current.name().filter(|name| name.contains("::")) else { return };
    WATCHER.call_once(|| drop(thread::spawn(watch)));
    let thread = HERE.with(|here| here.0);
    let mut tests = tests();
    if let Some(test) = tests.iter_mut().find(|test| test.thread == thread) {
        return change(test);
    }
    let name = name.to_owned();
    let mut test = Test { thread, name, since: Instant::now(), limit: LIMIT, children: Vec::new() };
    change(&mut test);
    tests.push(test);
}

fn watch() {
    loop {
        thread::sleep(PAUSE);
        let mut tests = tests();
        if let Some(test) = tests.iter().find(|test| test.since.elapsed() > test.limit + GRACE) {
            say(&format!(
                "test {} does not end, though its processes are dead: given up",
                test.name
            ));
            tests.iter_mut().for_each(kill);
            std::process::exit(101);
        }
        for test in tests.iter_mut().filter(|test| test.since.elapsed() > test.limit) {
            if !test.children.is_empty() {
                say(&format!(
                    "test {} takes longer than {:?}: its processes are killed",
                    test.name, test.limit
                ));
                kill(test);
            }
        }
    }
}

fn kill(test: &mut Test) {
    test.children.drain(..).for_each(Child::kill);
}

/// Past what a test's output is held back in: it may never be shown.
fn say(what: &str) {
    // There is nobody else to tell.
    let _ = writeln!(std::io::stderr(), "{what}");
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn sleeping() -> std::process::Child {
        Command::new("sleep").arg("1000").spawn().expect("it starts")
    }

    #[test]
    fn processes_of_a_test_that_takes_too_long_are_killed() {
        let mut child = sleeping();
        set(Duration::ZERO);
        started(child.id());
        assert!(!child.wait().expect("own child").success());
        let other = thread::Builder::new().name("another::test".to_owned());
        let other = other.spawn(|| {
            set(LIMIT);
            let id = thread::current().id();
            assert!(tests().iter().any(|test| test.thread == id));
            id
        });
        let other = other.expect("a thread").join().expect("it ends");
        assert!(tests().iter().all(|test| test.thread != other), "what ends is off the list");
    }

    #[test]
    fn another_process_is_left_alone() {
        assert_eq!(Child::of(1), None);
        assert_eq!(Child::of(std::process::id()), None);
        let mut child = sleeping();
        let known = Child::of(child.id()).expect("a child");
        // Another with its number.
        Child { started: known.started + 1, ..known }.kill();
        assert_eq!(child.try_wait().expect("own child"), None);
        known.kill();
        assert!(!child.wait().expect("own child").success());
    }
}
