//! What happens in a schedule.

use super::*;

impl World {
    pub(super) fn step(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Arrive(slot) => return self.arrive(slot),
            Event::Retry(slot, holder) => {
                if self.process(slot, holder).is_some() {
                    return self.admit(slot);
                }
            }
            Event::Tick(slot, holder) => self.tick(slot, holder)?,
            Event::Finish(slot, holder, ready) => {
                if let Some(process) = self.process(slot, holder) {
                    process.permits.give_back(1, ready);
                    *self.running.entry(holder).or_default() -= 1;
                    return self.admit(slot);
                }
            }
            Event::Cooled(slot, holder, ready) => {
                if let Some(process) = self.process(slot, holder) {
                    process.permits.give_back(1, ready);
                }
            }
            Event::AtDatabase(slot, holder, ask) => self.at_database(slot, holder, ask)?,
            Event::Granted(slot, holder, grant) => {
                let now = self.now;
                if let Some(process) = self.process(slot, holder) {
                    process.permits.receive(&grant);
                    process.asked_until = 0;
                    process.asks_at = if grant.is_short { now + RETRY } else { now };
                    return self.admit(slot);
                }
            }
            Event::Recalled(slot, holder, asking) => {
                let now = self.now;
                if let Some(process) = self.process(slot, holder) {
                    let kept = i64::from(!process.waiting.is_empty() && asking.is_some_and(|asking| holder < asking));
                    match asking {
                        Some(_) => process.permits.recall(kept, now),
                        None => process.permits.recall_all(now),
                    }
                    self.ask(slot);
                }
            }
            Event::Ended(holder) => {
                if !self.is_database_up {
                    self.at(self.now + SECOND, Event::Ended(holder));
                    return Ok(());
                }
                self.ended.insert(holder);
                let is_free_at_once = self.is_concurrency || self.fault == Fault::FreeAtDeath;
                self.book.end(holder, self.now + self.database_clock_ahead, is_free_at_once);
            }
            Event::GoWrong => self.go_wrong(),
            Event::DatabaseBack => self.is_database_up = true,
        }
        Ok(())
    }

    pub(super) fn arrive(&mut self, slot: usize) -> Result<(), String> {
        let now = self.now;
        let Some(process) = &mut self.processes[slot] else { return Ok(()) };
        process.waiting.push_back(now);
        self.admit(slot)
    }

    /// Admits those that wait, as far as there are permits; asks for more.
    fn admit(&mut self, slot: usize) -> Result<(), String> {
        let (now, is_concurrency) = (self.now, self.is_concurrency);
        loop {
            let Some(process) = &mut self.processes[slot] else { return Ok(()) };
            process.permits.pass_time(now);
            let holder = process.holder;
            let Some(since) = process.waiting.front().copied() else { break };
            if process.permits.idle() >= 1 {
                process.waiting.pop_front();
                let ready = process.permits.take(1, now, is_concurrency);
                self.note_admitted(slot, holder, since, ready)?;
            } else if now - since >= GIVE_UP {
                process.waiting.pop_front();
            } else {
                self.at(now + RETRY, Event::Retry(slot, holder));
                break;
            }
        }
        self.ask(slot);
        Ok(())
    }

    fn note_admitted(&mut self, slot: usize, holder: u64, since: Micros, ready: Micros) -> Result<(), String> {
        let now = self.now;
        if since >= self.start + PROBE_AT {
            self.probes_admitted += 1;
        }
        if self.is_concurrency {
            *self.running.entry(holder).or_default() += 1;
            let lasts = self.below(5 * SECOND);
            self.at(now + lasts, Event::Finish(slot, holder, ready));
            let running: i64 = self.running.values().sum();
            return if running > self.highest { Err(format!("{running} requests at once")) } else { Ok(()) };
        }
        if self.fault == Fault::CoolTooShort {
            self.at(now + 50 * SECOND, Event::Cooled(slot, holder, ready));
        }
        self.admitted.push_back(now);
        while self.admitted.front().is_some_and(|first| *first <= now - MINUTE) {
            self.admitted.pop_front();
        }
        let admitted = i64::try_from(self.admitted.len()).unwrap_or(i64::MAX);
        if admitted > self.highest { Err(format!("{admitted} requests in a minute")) } else { Ok(()) }
    }

    fn tick(&mut self, slot: usize, holder: u64) -> Result<(), String> {
        let now = self.now;
        let Some(process) = self.process(slot, holder) else { return Ok(()) };
        process.permits.return_unused(now);
        self.admit(slot)?;
        self.at(now + TICK, Event::Tick(slot, holder));
        Ok(())
    }

    fn ask(&mut self, slot: usize) {
        let (now, most) = (self.now, self.book.most);
        let Some(process) = &mut self.processes[slot] else { return };
        if process.asked_until > now || process.asks_at > now {
            return;
        }
        let waiting = i64::try_from(process.waiting.len()).unwrap_or(i64::MAX);
        let (ask, is_due) = process.permits.ask(waiting.min(1), (waiting - 1).max(0), most, now);
        if is_due {
            process.asked_until = now + ANSWER;
            let holder = process.holder;
            self.send(&Event::AtDatabase(slot, holder, ask));
        }
    }

    fn at_database(&mut self, slot: usize, holder: u64, mut ask: PermitAsk) -> Result<(), String> {
        if !self.is_database_up || (self.ended.contains(&holder) && self.fault != Fault::NoFence) {
            return Ok(());
        }
        if self.fault == Fault::ReturnTwice && ask.returned > 0 {
            ask.returned += 1;
        }
        let free = self.book.free();
        let grant = self.book.ask(holder, &ask, self.now + self.database_clock_ahead);
        if self.book.free() < free.min(0) {
            return Err(format!("more was granted than there is: {:?}", self.book));
        }
        if grant.is_short && self.fault != Fault::NoRecall && self.now - self.recalled >= 30 * MILLISECOND {
            self.recalled = self.now;
            self.recall(Some(holder));
        }
        self.send(&Event::Granted(slot, holder, grant));
        Ok(())
    }

    fn recall(&mut self, asking: Option<u64>) {
        for slot in 0..PROCESSES {
            if let Some(holder) = self.processes[slot].as_ref().map(|process| process.holder)
                && asking != Some(holder)
            {
                self.send(&Event::Recalled(slot, holder, asking));
            }
        }
    }

    fn go_wrong(&mut self) {
        let slot = self.index();
        match self.below(5) {
            0 | 1 => {
                if let Some(process) = self.processes[slot].take() {
                    self.crashes += 1;
                    self.running.remove(&process.holder);
                    let after = self.below(5 * SECOND);
                    self.at(self.now + after, Event::Ended(process.holder));
                }
                if self.chance(60) || self.processes.iter().all(Option::is_none) {
                    self.start(slot);
                }
            }
            2 => {
                self.is_database_up = false;
                let back = self.below(5 * SECOND);
                self.at(self.now + back, Event::DatabaseBack);
            }
            3 => self.database_clock_ahead = self.below(SECOND),
            _ => {
                self.book.most = 1 + self.below(60);
                self.highest = self.highest.max(self.book.most);
                self.recall(None);
            }
        }
    }
}
