//! What processes do: admit requests, charge them, ask the database, bring journals to it.

use std::collections::BTreeSet;

use super::super::{Micros, Picos};
use super::messages::{Answer, Fault, ToDatabase};
use super::process::{BALANCE, Charge, Running, Waiting};
use super::world::{ANSWER, Event, GIVE_UP, MILLISECOND, RECALL, SECOND, WINDOWS, World};

impl World {
    pub(super) fn arrive(&mut self, slot: usize, key: usize, worst: Picos, is_probe: bool) {
        let (id, since) = (self.id(), self.now);
        if let Some(process) = &mut self.processes[slot] {
            process.waiting.push(Waiting { id, key, worst, since, is_probe });
            self.admit(slot);
        }
    }

    /// Admits what waits and can be paid for, and asks for what is lacking.
    pub(super) fn admit(&mut self, slot: usize) {
        let now = self.now;
        let Some(process) = &mut self.processes[slot] else { return };
        let holder = process.holder;
        let mut still_waiting = Vec::new();
        let mut started = Vec::new();
        for waiting in std::mem::take(&mut process.waiting) {
            let has_waited = now - waiting.since;
            let mut reservation = process.reserve(waiting.key, waiting.worst, now);
            let is_probe = waiting.is_probe;
            if reservation.is_none() && has_waited >= GIVE_UP {
                let rest = process.free(waiting.key).min(waiting.worst);
                reservation = if rest > 0 && !is_probe { process.reserve(waiting.key, rest, now) } else { None };
                match reservation {
                    Some(_) => self.counters.shortened += 1,
                    None => self.counters.refused += 1,
                }
                if is_probe {
                    self.probe_passed = Some(false);
                }
            } else if reservation.is_none() {
                still_waiting.push(waiting);
                continue;
            }
            if let Some(reservation) = reservation {
                if is_probe {
                    self.probe_passed = Some(true);
                }
                process.running.insert(waiting.id, Running { key: waiting.key, admitted: now, reservation });
                started.push(waiting.id);
            }
        }
        process.waiting = still_waiting;
        let retries = !process.waiting.is_empty() && process.retries_at <= now;
        if retries {
            process.retries_at = now + 50 * MILLISECOND;
        }
        for id in started {
            let duration = self.below(2 * SECOND.unsigned_abs()).cast_signed();
            self.at(now + duration, Event::Finish(slot, holder, id));
        }
        if retries {
            self.at(now + 50 * MILLISECOND, Event::Retry(slot, holder));
        }
        self.ask(slot);
    }

    pub(super) fn ask(&mut self, slot: usize) {
        let now = self.now;
        for budget in 0..WINDOWS.len() {
            let Some(process) = self.processes[slot].as_mut().filter(|process| process.is_registered) else { return };
            if process.asked_until[budget] > now {
                continue;
            }
            let (needed, more) = process.wanted(budget);
            let oldest = process.waiting.iter().find(|waiting| waiting.needs(budget));
            let partial = oldest.is_some_and(|waiting| now - waiting.since >= RECALL && !waiting.is_probe);
            if let Some(ask) = process.leases[budget].ask(needed, more, partial, now) {
                // While others are asked to hand something back, the next question comes a little later.
                process.asked_until[budget] = now + ANSWER;
                self.send(slot, ToDatabase::Ask(budget, ask, now));
            }
        }
    }

    pub(super) fn finish(&mut self, slot: usize, holder: u64, id: u64) {
        let is_charged = self.chance(85);
        let share = self.below(101);
        let (now, fault) = (self.now, self.fault);
        let Some(process) = self.processes[slot].as_mut().filter(|process| process.holder == holder) else { return };
        let Some(Running { key, admitted, reservation }) = process.running.remove(&id) else { return };
        if !is_charged {
            self.counters.released += 1;
            if fault != Fault::KeepReservation {
                for budget in [0, key, BALANCE] {
                    process.leases[budget].release(&reservation);
                }
            }
            return self.admit(slot);
        }
        self.counters.charged += 1;
        let cost = (reservation.worst() * Picos::from(share) + 99) / 100;
        let mut created = now + process.clock_ahead;
        for budget in [0, key, BALANCE] {
            process.leases[budget].settle(&reservation, cost);
            if fault != Fault::TrustClock {
                created = created.max(process.leases[budget].earliest_charge());
            }
        }
        let charge = Charge { id, key, cost, created, admitted };
        process.sent.insert(id, (charge, now));
        self.send(slot, ToDatabase::Charge(charge));
        self.admit(slot);
    }

    pub(super) fn tick(&mut self, slot: usize) {
        let now = self.now;
        let Some(process) = &mut self.processes[slot] else { return };
        let (holder, is_registered) = (process.holder, process.is_registered);
        // What the database did not answer goes to the journal, and the client gets its reply.
        let late: Vec<u64> = process.sent.iter().filter(|(_, (_, at))| now - at >= ANSWER).map(|(id, _)| *id).collect();
        for id in late {
            if let Some((charge, _)) = process.sent.remove(&id) {
                self.counters.journaled += 1;
                self.folder.entry(holder).or_default().push(charge);
                self.acknowledged.push(id);
            }
        }
        for lease in &mut process.leases {
            lease.return_if_idle(now);
        }
        if is_registered {
            self.send(slot, ToDatabase::Settle);
            if self.chance(10) {
                self.send(slot, ToDatabase::ExpireCredits);
            }
            self.send_journals(slot);
        } else {
            self.send(slot, ToDatabase::Register);
        }
        self.admit(slot);
        let pause = 100 + self.below(200).cast_signed();
        self.at(now + pause * MILLISECOND, Event::Tick(slot));
    }

    /// Sends this process's journal and those of dead ones; where nothing is left of a dead one, ends its leases.
    pub(super) fn send_journals(&mut self, slot: usize) {
        let alive: BTreeSet<u64> = self.processes.iter().flatten().map(|process| process.holder).collect();
        let own = self.processes[slot].as_ref().map(|process| process.holder);
        for (holder, charges) in self.folder.clone() {
            let is_dead = !alive.contains(&holder);
            let ends = charges.is_empty() || self.fault == Fault::ForgetJournal;
            if is_dead && ends {
                self.send(slot, ToDatabase::End(holder));
            }
            // Who ends leases too early charges the journal later, or there would be little to see.
            let is_late = is_dead && self.fault == Fault::ForgetJournal && !self.chance(5);
            if !charges.is_empty() && !is_late && (is_dead || own == Some(holder)) {
                self.send(slot, ToDatabase::Replay(holder, charges));
            }
        }
    }

    pub(super) fn at_process(&mut self, slot: usize, answer: Answer) {
        let Some(process) = &mut self.processes[slot] else { return };
        match answer {
            Answer::Registered => process.is_registered = true,
            Answer::Granted(budget, mut grant, asked_at) => {
                if self.fault == Fault::IgnoreDeadline {
                    grant.valid_for = None;
                }
                process.asked_until[budget] = if grant.is_short { self.now + 20 * MILLISECOND } else { Micros::MIN };
                let known = process.leases[budget].earliest_charge();
                process.leases[budget].receive(&grant, asked_at);
                self.counters.windows += u64::from(known > 0 && grant.window_starts > known);
            }
            Answer::Charged(id) => {
                if process.sent.remove(&id).is_some() {
                    self.acknowledged.push(id);
                }
            }
            Answer::Replayed(holder, ids) => {
                if let Some(journal) = self.folder.get_mut(&holder) {
                    let before = journal.len();
                    journal.retain(|charge| !ids.contains(&charge.id));
                    self.counters.replayed += (before - journal.len()) as u64;
                }
            }
            Answer::Ended(holder) => {
                self.counters.ended += 1;
                if self.folder.get(&holder).is_some_and(Vec::is_empty) {
                    self.folder.remove(&holder);
                }
            }
            Answer::Recall(budget, is_change) => {
                // What is handed back now must not wait for the answer to an earlier question.
                let wanted = process.wanted(budget).0;
                match is_change {
                    true => process.leases[budget].outdate(),
                    false => process.leases[budget].recall(wanted),
                }
                process.asked_until[budget] = self.now;
            }
        }
        self.admit(slot);
    }
}
