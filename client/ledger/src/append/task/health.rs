//! Time: positions that are away, stuck or slow, LAC on its own, and what the owner should know (2.4, 2.6).

use geminga_proto::bookie::WriteOp;
use tokio::time::Instant;

use super::{Ask, Health, Task};
use crate::core::writer::{Event, Link, Phase};

impl Task {
    pub(super) fn on_tick(&mut self) {
        let now = Instant::now();
        self.tell_lac(now);
        for index in 0..self.watchdogs.len() {
            if self.is_overdue(index, now)
                && self.watchdogs[index].give_up(self.setup.config.search_pause, now)
            {
                self.give_up(index);
            }
        }
        self.report_health();
        self.close_when_drained();
    }

    /// A position does not do its part: somebody is looked for to take its place.
    pub(super) fn give_up(&mut self, index: usize) {
        let member = self.core.positions()[index].member.clone();
        tracing::debug!(ledger = %self.meta.id, %member, "member is given up");
        self.setup.quarantine.failed(&member.bookie, &self.setup.bookies.live());
        let effects = self.core.step(Event::GiveUp { member });
        self.carry_out(effects);
    }

    /// LAC travels with entries; when there are none it is told on its own (2.4).
    fn tell_lac(&mut self, now: Instant) {
        let lac = self.core.lac();
        if lac == self.told_lac || now - self.sent_at < self.setup.config.idle_lac {
            return;
        }
        self.told_lac = lac;
        self.send_to_live(Ask::Lac, &WriteOp::AdvanceLac(lac));
    }

    /// A position that had nothing to do until now is timed from now on, and so is the oldest entry: no tick looked at them
    /// while the ledger was idle.
    pub(super) fn start_watch(&mut self) {
        let now = Instant::now();
        let lap = self.core.lap();
        if self.core.lac() >= lap {
            self.head_since = now;
        }
        for (position, watchdog) in self.core.positions().iter().zip(&mut self.watchdogs) {
            watchdog.look(position.acked, position.acked >= lap, now);
        }
    }

    /// Away beyond the grace, or answering and not moving, or moving and too far behind the others (2.6).
    fn is_overdue(&mut self, index: usize, now: Instant) -> bool {
        let config = &self.setup.config;
        let position = &self.core.positions()[index];
        let watchdog = &mut self.watchdogs[index];
        if position.is_missing() {
            return false;
        }
        watchdog.look(position.acked, position.acked >= self.core.lap(), now);
        if let Some(away) = watchdog.away(now) {
            return away >= config.reconnect_grace;
        }
        match self.flight.lag(position.acked) {
            Some((since, bytes)) => now - since >= config.lag_limit || bytes >= config.lag_bytes,
            None => watchdog.stuck(now) >= config.add_timeout.max(self.latencies.p999() * 4),
        }
    }

    pub(super) fn report_health(&self) {
        let absent = self.core.positions().iter().any(|p| p.link == Link::Absent);
        let health = match self.core.phase() {
            Phase::Dead if self.sealed => Health::Deposed,
            Phase::Dead => Health::Dead,
            _ if self.core.is_quorum_lost() && self.core.is_nobody_left() => Health::NobodyLeft,
            _ if self.core.is_quorum_lost() || self.is_head_stuck() => Health::QuorumLost,
            _ if self.core.is_roll_asked() => Health::Roll,
            _ if absent => Health::Degraded,
            _ => Health::Healthy,
        };
        if self.health.send_if_modified(|now| std::mem::replace(now, health) != health) {
            tracing::info!(ledger = %self.meta.id, ?health, "ledger health changed");
        }
    }

    /// Whatever the reason: nothing was acknowledged for too long.
    fn is_head_stuck(&self) -> bool {
        self.core.lac() < self.core.lap()
            && self.head_since.elapsed() >= self.setup.config.quorum_timeout
    }
}
