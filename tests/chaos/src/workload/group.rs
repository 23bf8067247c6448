//! Groups: members come, leave and vanish; now and then a group empties, and an operator sets it back. Somebody looks at what is
//! committed all the time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use geminga_check::Event as Line;
use geminga_client::{Admin, v1};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::member::{Member, Order};
use super::{Context, Phase, TOPIC};
use crate::dice::Dice;
use crate::history::place;

/// Most members of a group at a time.
const MEMBERS: usize = 4;
/// Between two changes of a group.
const CALM: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(6));
/// Between two looks at what is committed.
const LOOKS: Duration = Duration::from_millis(700);
/// A reset is given up after so many attempts.
const ATTEMPTS: usize = 10;

/// Runs the groups until the run is over and all members have left.
pub(crate) async fn groups(context: Context, count: usize) -> Result<()> {
    let mut all = Vec::new();
    for number in 0..count {
        let group = format!("g{}", number + 1);
        let (of_group, of_looks) = (context.clone(), context.clone());
        let (name, looked_at) = (group.clone(), group);
        all.push(
            context.tasks.spawn("group", async move {
                Group::new(of_group, name, number as u64).run().await
            }),
        );
        all.push(context.tasks.spawn("looks", async move { look_on(of_looks, &looked_at).await }));
    }
    for one in all {
        one.await?.context("a group panicked")??;
    }
    Ok(())
}

/// A member that runs.
struct Hired {
    orders: watch::Sender<Order>,
    task: JoinHandle<Option<Result<()>>>,
}

struct Group {
    context: Context,
    name: String,
    dice: Dice,
    /// How many members there ever were.
    born: u64,
    members: Vec<Hired>,
}

impl Group {
    fn new(context: Context, name: String, number: u64) -> Self {
        let dice = Dice::new(context.seed, 2000 + number);
        Self { context, name, dice, born: 0, members: Vec::new() }
    }

    async fn run(mut self) -> Result<()> {
        self.add();
        self.add();
        loop {
            tokio::select! {
                () = self.context.reached(Phase::Settle) => break,
                () = tokio::time::sleep(self.dice.between(CALM.0, CALM.1)) => {}
            }
            match self.dice.below(10) {
                0..4 if self.members.len() < MEMBERS => self.add(),
                4..6 => self.end_one(Order::Leave).await?,
                6..9 => self.end_one(Order::Vanish).await?,
                9 => self.set_back().await?,
                _ => {}
            }
            if self.members.is_empty() {
                self.add();
            }
        }
        self.context.reached(Phase::Over).await;
        while !self.members.is_empty() {
            self.end_one(Order::Leave).await?;
        }
        Ok(())
    }

    fn add(&mut self) {
        self.born += 1;
        let (orders, order) = watch::channel(Order::Stay);
        let member = Member {
            context: self.context.clone(),
            group: self.name.clone(),
            name: format!("{}-m{}", self.name, self.born),
            order,
            dice: Dice::new(self.dice.next(), self.born),
        };
        let task = self.context.tasks.spawn("member", member.run());
        self.members.push(Hired { orders, task });
    }

    async fn end_one(&mut self, how: Order) -> Result<()> {
        if self.members.is_empty() {
            return Ok(());
        }
        let Hired { orders, task } = self.members.swap_remove(self.dice.below(self.members.len()));
        orders.send_replace(how);
        task.await?.context("a member panicked")?
    }

    /// All leave, and the group goes on from somewhere before.
    async fn set_back(&mut self) -> Result<()> {
        while !self.members.is_empty() {
            self.end_one(Order::Leave).await?;
        }
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
