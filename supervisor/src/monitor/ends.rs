//! Containers' ends: record, reap, kill what is left, complete the log, tell.

use std::os::fd::AsFd;

use super::clock::Moment;
use super::container::{Phase, peek_exit, reap};
use super::poller::Serial;
use super::protocol::{Answer, Event, ExitRecord};
use super::record;
use super::state::{DRAIN_MS, LINGER_TICK_MS, RETRY_MS, State, died, note};

impl State {
    pub(super) fn container_ended(&mut self, serial: Serial) {
        // Its last words come first: an exec and an end may be seen at once.
        self.child_reported(serial);
        let now = Moment::now();
        let Some(container) = self.by_serial(serial) else {
            return;
        };
        let Some(exit) = peek_exit(container.pidfd.as_fd()) else {
            return;
        };
        if container.channel.is_some() && matches!(container.phase, Phase::Preparing(_) | Phase::Starting(_)) {
            self.child_reported(serial);
        }
        let Some(container) = self.by_serial(serial) else {
            return;
        };
        if matches!(container.phase, Phase::Preparing(_)) {
            return self.discard(serial, died());
        }
        let ending = container.end(exit, now);
        let waiting = std::mem::replace(&mut container.phase, Phase::Ended(ending));
        container.stdin = None;
        if let Some(pump) = &mut container.pump {
            pump.release_writers();
        }
        let channel = container.channel.take();
        if let Phase::Starting(caller) = waiting {
            self.outbox.reply(caller, Err(died()), Vec::new());
        }
        if let Some(channel) = channel {
            self.poller.remove(&channel);
        }
        if let Some(container) = self.containers.iter().find(|container| container.serial == serial) {
            self.poller.remove(&container.pidfd);
        }
        self.record(serial, now);
        self.settle(serial, now);
    }

    pub(super) fn record(&mut self, serial: Serial, now: Moment) {
        let Some(container) = self.by_serial(serial) else {
            return;
        };
        if let Err(error) = container.record() {
            note(&format!("record of {}: {error}, trying again", container.id));
            self.record_retry_at = Some(now.after_ms(RETRY_MS));
        }
    }

    /// Ends what the first process left behind (rule TR11), completes the log, and tells the brain.
    pub(super) fn settle(&mut self, serial: Serial, now: Moment) {
        let streams =
            self.by_serial(serial).and_then(|container| container.pump.as_ref().map(super::pump::Pump::sources));
        for stream in 0..streams.unwrap_or(0) {
            self.pump(serial, stream);
        }
        let Some(container) = self.by_serial(serial) else {
            return;
        };
        let quiet = container.pump.as_ref().is_none_or(|pump| pump.is_finished() || pump.is_blocked());
        let populated = record::is_populated(container.cgroup.as_fd());
        if populated {
            let _gone = container.kill();
        }
        let Phase::Ended(ending) = &mut container.phase else {
            return;
        };
        if !populated && ending.drained_by.is_none() {
            ending.drained_by = Some(now.after_ms(DRAIN_MS));
        }
        let drained = !populated && (quiet || ending.drained_by.is_some_and(|due| due <= now));
        if !drained && now < ending.give_up_at {
            self.linger_at = Some(now.after_ms(LINGER_TICK_MS));
            return;
        }
        if !ending.told {
            ending.told = true;
            if let Err(error) = container.complete_record() {
                note(&format!("end of the log in the record of {}: {error}", container.id));
            }
            let Phase::Ended(ending) = &container.phase else {
                return;
            };
            let record: ExitRecord = ending.record.clone();
            if let Some(pump) = &mut container.pump {
                pump.detach_all();
            }
            let remove = !container.removers.is_empty();
            self.outbox.event(Event::ContainerExited(record));
            if remove {
                self.forget(serial);
            }
        }
    }

    /// Drops an ended container and answers who asked for it.
    pub(super) fn forget(&mut self, serial: Serial) {
        let Some(at) = self.containers.iter().position(|container| container.serial == serial) else {
            return;
        };
        let container = self.containers.swap_remove(at);
        self.unwatch(&container);
        for caller in &container.removers {
            self.outbox.reply(*caller, Ok(Answer::Done), Vec::new());
        }
        if matches!(&container.phase, Phase::Ended(ending) if !ending.recorded) {
            reap(container.pidfd.as_fd());
        }
    }
}
