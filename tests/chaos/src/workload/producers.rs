//! Lines of producers: each lives for a while and is followed by another under a new name and a new producer id. One is told to end,
//! the next is killed in the middle of sending, the third is held for a while before it is killed.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use geminga_harness::Host;
use tokio::time::timeout;

use super::hired::Hired;
use super::order::Order;
use super::{Context, Phase};
use crate::cluster::Felt;
use crate::dice::Dice;

/// How long the first of a line lives, so that each way to end is seen soon.
const FIRST_LIFE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(12));
/// How long later ones live.
const LIFE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(40));
/// How long one sends without a pause before it is killed: something is on its way then.
const HURRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));
/// How long one is held.
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(9));
/// How long one may take to end what it has begun: longer than its own timeouts.
const PATIENCE: Duration = Duration::from_secs(170);

/// Runs a line of producers on each host, until no more records are to be sent and all have ended.
pub(super) async fn producers(context: Context, hosts: Vec<Host>) -> Result<()> {
    let lines = hosts.into_iter().enumerate().map(|(line, host)| {
        let (context, tasks) = (context.clone(), context.tasks.clone());
        tasks.spawn("a line of producers", async move { follow(&context, &host, line).await })
    });
    for line in lines.collect::<Vec<_>>() {
        line.await?.context("a line of producers panicked")??;
    }
    Ok(())
}

/// One producer after the other.
async fn follow(context: &Context, host: &Host, line: usize) -> Result<()> {
    let dice = Dice::new(context.seed, 1000 + line as u64);
    let mut life = 0;
    while *context.phase.borrow() == Phase::Load {
        let name = format!("p{}.{}", line + 1, life + 1);
        let (low, high) = if life == 0 { FIRST_LIFE } else { LIFE };
        let lasts = dice.between(low, high);
        let mut more = vec![format!("--partitions={}", context.partitions)];
        more.extend((!context.idempotence).then(|| "--no-idempotence".to_owned()));
        let mut producer = Hired::start(context, host, "producer", &name, dice.next(), &more)?;
        let way = tokio::select! {
            () = context.reached(Phase::Settle) => None,
            () = tokio::time::sleep(lasts) => Some((line + life) % 3),
            status = producer.ended() => bail!("{name} ended by itself ({}): see clients.log", status?),
        };
        match way {
            Some(0) => kill(context, &dice, producer).await?,
            Some(1) => {
                hold(context, &dice, &producer).await;
                kill(context, &dice, producer).await?;
            }
            _ => leave(producer).await?,
        }
        life += 1;
    }
    Ok(())
}

async fn leave(mut producer: Hired) -> Result<()> {
    producer.tell(Order::Leave);
    let status = timeout(PATIENCE, producer.ended()).await;
    let status = status.with_context(|| format!("{} does not end", producer.name))??;
    ensure!(status.success(), "{} ended with {status}: see clients.log", producer.name);
    Ok(())
}

async fn kill(context: &Context, dice: &Dice, mut producer: Hired) -> Result<()> {
    producer.tell(Order::Hurry);
    tokio::time::sleep(dice.between(HURRY.0, HURRY.1)).await;
    let ran = producer.kill().await?;
    context.tally.add("kill producer", Felt { times: u64::from(ran), what: "killed" });
    Ok(())
}

async fn hold(context: &Context, dice: &Dice, producer: &Hired) {
    producer.pause();
    tokio::time::sleep(dice.between(HOLD.0, HOLD.1)).await;
    let held = producer.resume();
    context.tally.add("pause producer", Felt { times: u64::from(held), what: "held" });
}
