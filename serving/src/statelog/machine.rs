//! What a statelog runs: a state machine whose changes are commands in the log.

use bytes::Bytes;

/// What one step of a [`Machine`] leaves behind.
#[derive(Debug)]
pub struct Output<H> {
    /// Commands to append, in order.
    pub commands: Vec<Bytes>,
    /// Outputs to hold until the log proves them.
    pub held: Vec<H>,
}

impl<H> Default for Output<H> {
    fn default() -> Self {
        Self { commands: Vec::new(), held: Vec::new() }
    }
}

/// Why stored bytes could not be taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(pub String);

/// A replicated state machine. It has two states: one that requests see, which runs ahead, and one that is durable,
/// which [`Machine::apply`] moves and [`Machine::snapshot`] shows. Steps are quick and never wait. Times are
/// milliseconds from an arbitrary start.
pub trait Machine: Send + 'static {
    /// What it is asked, with a way to answer.
    type Request: Send + 'static;
    /// An output on hold.
    type Held: Send + 'static;

    /// Most bytes of commands that one step emits.
    const MAX_STEP_BYTES: usize;

    /// Takes in one part of the snapshot that the replay starts with.
    ///
    /// # Errors
    /// Bytes that are not a part.
    fn load(&mut self, part: &[u8]) -> Result<(), Damaged>;

    /// Takes in a durable command: during the replay, and as appended ones are acknowledged.
    ///
    /// # Errors
    /// Bytes that are not a command.
    fn apply(&mut self, command: &[u8]) -> Result<(), Damaged>;

    /// The replay is over: requests start from the durable state.
    fn replayed(&mut self, now_ms: u64);

    /// Handles a request.
    fn request(&mut self, now_ms: u64, request: Self::Request, out: &mut Output<Self::Held>);

    /// Does something that is due; more may still be due afterwards.
    fn tick(&mut self, now_ms: u64, out: &mut Output<Self::Held>);

    /// When [`Machine::tick`] is due, if ever.
    fn next_deadline(&self) -> Option<u64>;

    /// Something that the machine looks at outside of itself has changed.
    fn world_changed(&mut self, now_ms: u64);

    /// Lets an output go: it, and all it rests on, is durable and has been applied.
    fn release(&mut self, held: Self::Held);

    /// The durable state, in parts.
    fn snapshot(&self) -> Vec<Bytes>;
}
