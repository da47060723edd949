//! Who writes, and when: a thread that lives while there is something to write, or the caller itself if that takes no time.
//!
//! The thread is ours and not one of the runtime's: a change happens also where nobody runs a runtime, and a process
//! that may start no more threads writes all the same.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::limits::{WRITER_LINGERS, WRITER_STACK_BYTES};
use super::state::{Queued, State};

/// What handles, watches and the writing thread share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

impl Shared {
    pub(super) fn new(state: State) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), work: Condvar::new() })
    }

    /// Held for as long as it takes to look something up, never during a sync.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn submit(self: &Arc<Self>, queued: Queued) {
        let mut state = self.state();
        state.queue(queued);
        if state.is_light() {
            turn(&mut state);
        }
        if state.has_work() {
            self.call_writer(state);
        }
    }

    fn call_writer(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.thread_runs {
            self.work.notify_one();
            return;
        }
        let shared = Arc::clone(self);
        let builder = thread::Builder::new().name("store".to_owned()).stack_size(WRITER_STACK_BYTES);
        match builder.spawn(move || shared.run()) {
            Ok(thread) => {
                state.thread_runs = true;
                state.thread = Some(thread);
            }
            // No more threads: slow is better than not at all.
            Err(_) => while turn(&mut state) {},
        }
    }

    fn run(&self) {
        let mut state = self.state();
        loop {
            while let Some((batch, mut writer)) = state.take() {
                drop(state);
                let written = writer.write(&batch);
                state = self.state();
                state.finish(batch, writer, written);
            }
            if state.closed {
                break;
            }
            let (next, waited) = self.work.wait_timeout(state, WRITER_LINGERS).unwrap_or_else(PoisonError::into_inner);
            state = next;
            if waited.timed_out() && !state.has_work() {
                break;
            }
        }
        state.thread_runs = false;
    }

    /// Everything that is queued is written; watches end.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        self.work.notify_all();
        let thread = state.thread.take();
        drop(state);
        if let Some(thread) = thread {
            thread.join().unwrap_or_default();
        }
        self.state().feed.close();
    }
}

/// One batch by the caller. False when there was none.
fn turn(state: &mut State) -> bool {
    let Some((batch, mut writer)) = state.take() else { return false };
    let written = writer.write(&batch);
    state.finish(batch, writer, written);
    true
}
