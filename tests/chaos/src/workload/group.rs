//! Groups: members come, leave, are killed and are held for a while; now and then a group empties, and an operator sets it back.
//! Somebody looks at what is committed all the time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use geminga_check::Event as Line;
use geminga_client::{Admin, v1};
use geminga_harness::Host;
use tokio::time::timeout;

use super::hired::{Hired, gave_up};
use super::order::Order;
use super::{Context, Phase, TOPIC};
use crate::cluster::Felt;
use crate::dice::Dice;
use crate::history::place;

/// Most members of a group at a time.
const MEMBERS: usize = 4;
/// Between two changes of a group.
const CALM: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How long a member is held: at times for longer than its session lives.
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(9));
/// How long a member may take to commit and leave.
const PATIENCE: Duration = Duration::from_secs(170);
/// Between two looks at what is committed.
const LOOKS: Duration = Duration::from_millis(700);
/// A reset is given up after so many attempts.
const ATTEMPTS: usize = 10;

/// What changes in a group; all of it has happened before anything of it happens again.
#[derive(Debug, Clone, Copy)]
enum Change {
    Add,
    Leave,
    Kill,
    Hold,
    SetBack,
}

const CHANGES: [Change; 10] = [
    Change::Add,
    Change::Add,
    Change::Add,
    Change::Add,
    Change::Leave,
    Change::Kill,
    Change::Kill,
    Change::Kill,
    Change::Hold,
    Change::SetBack,
];

/// Runs the groups until the run is over and all members have left. `hosts`: where the members of each run.
pub(super) async fn groups(context: Context, hosts: Vec<Host>) -> Result<()> {
    let mut all = Vec::new();
    let names = group_names(hosts.len()).into_iter();
    for (number, (host, name)) in hosts.into_iter().zip(names).enumerate() {
        let (of_group, of_looks) = (context.clone(), context.clone());
        let looked_at = name.clone();
        all.push(context.tasks.spawn("group", async move {
            Group::new(of_group, host, name, number as u64).run().await
        }));
        all.push(context.tasks.spawn("looks", async move { look_on(of_looks, &looked_at).await }));
    }
    for one in all {
        one.await?.context("a group panicked")??;
    }
    Ok(())
}

/// The names of so many groups.
pub(super) fn group_names(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("g{number}")).collect()
}

struct Group {
    context: Context,
    host: Host,
    name: String,
    dice: Dice,
    /// How many members there ever were.
    born: u64,
    members: Vec<Hired>,
}

impl Group {
    fn new(context: Context, host: Host, name: String, number: u64) -> Self {
        let dice = Dice::new(context.seed, 2000 + number);
        Self { context, host, name, dice, born: 0, members: Vec::new() }
    }

    async fn run(mut self) -> Result<()> {
        self.add()?;
        self.add()?;
        // Seen in every run, however short.
        let mut changes = vec![Change::Kill, Change::Hold];
        loop {
            tokio::select! {
                () = self.context.reached(Phase::Settle) => break,
                () = tokio::time::sleep(self.dice.between(CALM.0, CALM.1)) => {}
            }
            self.replace_those_that_gave_up()?;
            if changes.is_empty() {
                changes.extend(CHANGES);
            }
            self.change(changes.swap_remove(self.dice.below(changes.len()))).await?;
            if self.members.is_empty() {
                self.add()?;
            }
        }
        loop {
            tokio::select! {
                () = self.context.reached(Phase::Over) => break,
                () = tokio::time::sleep(CALM.0) => self.replace_those_that_gave_up()?,
            }
        }
        self.all_leave().await
    }

    async fn change(&mut self, change: Change) -> Result<()> {
        match change {
            Change::Add if self.members.len() < MEMBERS => self.add(),
            Change::Add => Ok(()),
            Change::Leave => match self.one() {
                Some(member) => self.leave(member).await,
                None => Ok(()),
            },
            Change::Kill => {
                let Some(member) = self.one() else { return Ok(()) };
                let ran = member.kill().await?;
                let felt = Felt { times: u64::from(ran), what: "killed" };
                self.context.tally.add("kill member", felt);
                Ok(())
            }
            Change::Hold => {
                let Some(member) = self.one() else { return Ok(()) };
                member.pause();
                tokio::time::sleep(self.dice.between(HOLD.0, HOLD.1)).await;
                let felt = Felt { times: u64::from(member.resume()), what: "held" };
                self.context.tally.add("pause member", felt);
                self.members.push(member);
                Ok(())
            }
            Change::SetBack => self.set_back().await,
        }
    }

    fn add(&mut self) -> Result<()> {
        self.born += 1;
        let (name, more) = (format!("{}-m{}", self.name, self.born), ["--group", &self.name]);
        let more = more.map(str::to_owned);
        let seed = self.dice.next();
        let member = Hired::start(&self.context, &self.host, "member", &name, seed, &more)?;
        self.members.push(member);
        Ok(())
    }

    /// One of the members, which is none of them any more.
    fn one(&mut self) -> Option<Hired> {
        let count = self.members.len();
        (count > 0).then(|| self.members.swap_remove(self.dice.below(count)))
    }

    /// What a consumer gives up it has written down, and another one comes.
    fn replace_those_that_gave_up(&mut self) -> Result<()> {
        for mut member in std::mem::take(&mut self.members) {
            match member.has_ended()? {
                None => self.members.push(member),
                Some(status) => {
                    gave_up(&member, status)?;
                    self.add()?;
                }
            }
        }
        Ok(())
    }

    async fn leave(&self, mut member: Hired) -> Result<()> {
        member.tell(Order::Leave);
        let status = timeout(PATIENCE, member.ended()).await;
        let status = status.with_context(|| format!("{} does not leave", member.name))??;
        if status.success() { Ok(()) } else { gave_up(&member, status) }
    }

    async fn all_leave(&mut self) -> Result<()> {
        while let Some(member) = self.one() {
            self.leave(member).await?;
        }
        Ok(())
    }

    /// All leave, and the group goes on from somewhere before.
    async fn set_back(&mut self) -> Result<()> {
        self.all_leave().await?;
        let name = format!("{}-operator", self.name);
        let client = self.context.client(&name)?;
        let admin = client.admin();
        for _ in 0..ATTEMPTS {
            if *self.context.phase.borrow() != Phase::Load {
                break;
            }
            let Some(committed) = look(&self.context, &admin, &name, &self.name).await else {
                continue;
            };
            let least = committed.values().min().copied().unwrap_or(0);
            let to = self.dice.next() % (least + 1);
            for partition in 0..self.context.partitions {
                let (group, place) = (self.name.clone(), place(TOPIC, partition));
                self.context.history.write(&name, Line::Reset { group, place, offset: to });
            }
            let offset = i64::try_from(to).unwrap_or(i64::MAX);
            let to = v1::reset_offsets_request::To::Offset(offset);
            match admin.reset_offsets(&self.name, TOPIC, to).await {
                Ok(_) => {
                    for partition in 0..self.context.partitions {
                        let (group, place) = (self.name.clone(), place(TOPIC, partition));
                        self.context.history.write(&name, Line::ResetDone { group, place });
                    }
                    break;
                }
                // Members that vanished are in the group until their session times out.
                Err(_) => tokio::time::sleep(CALM.0).await,
            }
        }
        client.close().await;
        Ok(())
    }
}

/// Looks at what a group has committed, again and again.
async fn look_on(context: Context, group: &str) -> Result<()> {
    let name = format!("{group}-watcher");
    let client = context.client(&name)?;
    let admin = client.admin();
    while *context.phase.borrow() < Phase::Over {
        look(&context, &admin, &name, group).await;
        tokio::select! {
            () = context.reached(Phase::Over) => {}
            () = tokio::time::sleep(LOOKS) => {}
        }
    }
    client.close().await;
    Ok(())
}

/// What a group has committed, by partition; `None` when nobody says so.
pub(crate) async fn look(
    context: &Context,
    admin: &Admin,
    name: &str,
    group: &str,
) -> Option<BTreeMap<u32, u64>> {
    context.history.write(name, Line::Look { group: group.to_owned() });
    let offsets = admin.fetch_offsets(group, &[TOPIC.to_owned()]).await.ok()?;
    let known =
        offsets.into_iter().filter_map(|o| Some((o.partition, u64::try_from(o.offset).ok()?)));
    let known: BTreeMap<u32, u64> = known.collect();
    for (partition, offset) in &known {
        let (group, place) = (group.to_owned(), place(TOPIC, *partition));
        context.history.write(name, Line::Seen { group, place, offset: *offset });
    }
    Some(known)
}
