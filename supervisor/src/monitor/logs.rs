//! Containers' logs in the event loop.

use super::clock::Moment;
use super::poller::Serial;
use super::protocol::Event;
use super::pump::Turn;
use super::state::{RETRY_MS, State};

impl State {
    pub(super) fn pump(&mut self, serial: Serial, stream: usize) {
        let now = Moment::now();
        let Some(container) = self.containers.iter_mut().find(|container| container.serial == serial) else {
            return;
        };
        let Some(pump) = &mut container.pump else {
            return;
        };
        if pump.is_blocked() || pump.has_ended(stream) {
            return;
        }
        match pump.turn(stream, &mut self.scratch) {
            Turn::Drained | Turn::Busy => {}
            Turn::Ended => {
                if let Some(reader) = pump.reader(stream) {
                    self.poller.remove(reader);
                }
                if pump.is_finished() {
                    container.pump = None;
                }
            }
            Turn::Blocked(cause) => {
                container.retry_log_at = Some(now.after_ms(RETRY_MS));
                let event = Event::LogBlocked { container: container.id.clone(), cause };
                self.outbox.event(event);
                if let Some(container) = self.containers.iter().find(|container| container.serial == serial) {
                    self.unwatch_streams(container);
                }
            }
        }
    }

    pub(super) fn retry_log(&mut self, serial: Serial, now: Moment) {
        let Some(container) = self.containers.iter_mut().find(|container| container.serial == serial) else {
            return;
        };
        container.retry_log_at = None;
        let Some(pump) = &mut container.pump else {
            return;
        };
        if pump.retry(&mut self.scratch).is_err() {
            container.retry_log_at = Some(now.after_ms(RETRY_MS));
            return;
        }
        self.outbox.event(Event::LogResumed { container: container.id.clone() });
        if pump.is_finished() {
            container.pump = None;
        }
        if let Some(container) = self.containers.iter().find(|container| container.serial == serial) {
            // Without a place in the set the stream is drained at the container's end.
            let _unwatched = self.watch_streams(container);
        }
    }
}
