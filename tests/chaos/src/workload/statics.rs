//! A group of Kafka's static members, which are another program's: each is killed, ends or is held, and comes back as the same member,
//! mostly before its session is over, so that nobody else notices.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use geminga_harness::binary::repository;
use tokio::time::timeout;

use super::hired::{Hired, gave_up};
use super::load::Kafka;
use super::order::Order;
use super::{Context, Phase, TOPIC};
use crate::cluster::Felt;
use crate::dice::Dice;

/// The group.
pub(super) const GROUP: &str = "static";
/// What happens to them in every run that is long enough.
pub(super) const STATIC_KINDS: [&str; 2] = ["kill static member", "pause static member"];
/// Members, all the time.
const MEMBERS: u64 = 2;
/// How they share partitions: letting go of all of them in between, or only of those that move.
const ASSIGNORS: [&str; 2] = ["range", "cooperative-sticky"];
/// How long one lives.
const LIFE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(15));
/// How long one is away: mostly shorter than its session, which is six seconds.
const AWAY: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(3));
const LONG_AWAY: (Duration, Duration) = (Duration::from_secs(7), Duration::from_secs(9));
/// How long one is held.
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(9));
/// How long one may take to commit and end.
const PATIENCE: Duration = Duration::from_secs(120);

/// The Python that has a Kafka client, as `.ci/install test` makes it; `None` where that was not done.
pub fn python() -> Option<PathBuf> {
    let python = repository().join(".venv/bin/python");
    let mut asked = Command::new(&python);
    asked.args(["-c", "import confluent_kafka"]).stdin(Stdio::null()).stderr(Stdio::null());
    asked.status().is_ok_and(|status| status.success()).then_some(python)
}

/// Runs the members until the run is over.
pub(super) async fn statics(context: Context, kafka: Kafka) -> Result<()> {
    let kafka = Arc::new(kafka);
    let assignor = ASSIGNORS[Dice::new(context.seed, 5000).below(ASSIGNORS.len())];
    let mut all = Vec::new();
    for number in 1..=MEMBERS {
        let dice = Dice::new(context.seed, 5000 + number);
        let (of_instance, kafka) = (context.clone(), Arc::clone(&kafka));
        let instance = Instance { context: of_instance, kafka, assignor, number, dice };
        all.push(context.tasks.spawn("static member", instance.run()));
    }
    for one in all {
        one.await?.context("a static member panicked")??;
    }
    Ok(())
}

/// One member, through all its lives.
struct Instance {
    context: Context,
    kafka: Arc<Kafka>,
    assignor: &'static str,
    number: u64,
    dice: Dice,
}

impl Instance {
    async fn run(self) -> Result<()> {
        for life in 1.. {
            let mut member = self.start(life)?;
            let lasts = self.dice.between(LIFE.0, LIFE.1);
            // From the end of the load on it lives until the end of the run.
            let over = self.context.reached(Phase::Over);
            let lives = async {
                tokio::select! {
                    () = tokio::time::sleep(lasts) => {}
                    () = self.context.reached(Phase::Settle) => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return leave(member).await,
                () = lives => {}
                // Whoever watches over it starts it again.
                status = member.ended() => {
                    gave_up(&member, status?)?;
                    continue;
                }
            }
            match (life + self.number) % 3 {
                1 => leave(member).await?,
                2 => {
                    self.hold(&member).await;
                    self.kill(member).await?;
                }
                _ => self.kill(member).await?,
            }
            let (low, high) = if self.dice.chance(20) { LONG_AWAY } else { AWAY };
            tokio::time::sleep(self.dice.between(low, high)).await;
        }
        Ok(())
    }

    fn start(&self, life: u64) -> Result<Hired> {
        let instance = format!("{GROUP}-m{}", self.number);
        let more = [
            format!("--servers={}", self.kafka.servers),
            format!("--group={GROUP}"),
            format!("--instance={instance}"),
            format!("--topic={TOPIC}"),
            format!("--assignor={}", self.assignor),
        ];
        let script = repository().join("tests/chaos/static_member.py");
        let (name, seed) = (format!("{instance}.{life}"), self.dice.next());
        let (context, Kafka { host, python, .. }) = (&self.context, &*self.kafka);
        Hired::start_program(context, host, python, script.as_os_str(), &name, seed, &more)
    }

    async fn kill(&self, member: Hired) -> Result<()> {
        let felt = Felt { times: u64::from(member.kill().await?), what: "killed" };
        self.context.tally.add("kill static member", felt);
        Ok(())
    }

    async fn hold(&self, member: &Hired) {
        member.pause();
        tokio::time::sleep(self.dice.between(HOLD.0, HOLD.1)).await;
        let felt = Felt { times: u64::from(member.resume()), what: "held" };
        self.context.tally.add("pause static member", felt);
    }
}

async fn leave(mut member: Hired) -> Result<()> {
    member.tell(Order::Leave);
    let status = timeout(PATIENCE, member.ended()).await;
    let status = status.with_context(|| format!("{} does not end", member.name))??;
    if status.success() { Ok(()) } else { gave_up(&member, status) }
}
