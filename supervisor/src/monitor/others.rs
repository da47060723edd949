//! Processes of the pod that are not containers: execs and pause.

use std::os::fd::{AsFd, OwnedFd};

use super::channel::{Received, Report};
use super::container::{peek_exit, reap};
use super::exec::Exec;
use super::outbox::Caller;
use super::poller::Serial;
use super::protocol::{Answer, Event, MonitorError};
use super::state::{State, died};
use crate::runtime::launch::FdSlot;

impl State {
    pub(super) fn exec_reported(&mut self, serial: Serial) {
        let Some(at) = self.execs.iter().position(|exec| exec.serial == serial) else {
            return;
        };
        let Some(exec) = self.execs.get_mut(at) else {
            return;
        };
        let Some(starting) = &mut exec.starting else {
            return;
        };
        match starting.channel.receive() {
            Ok(Received::Nothing) => {}
            Ok(Received::Report(Report::Prepared(_), terminal)) => starting.terminal = terminal,
            Ok(Received::Report(Report::Failed(error), _)) => {
                let exec = self.execs.swap_remove(at);
                self.exec_failed(exec, MonitorError::Launch(error));
            }
            Ok(Received::Closed) | Err(_) => {
                let pid = exec.pid.as_raw_nonzero().get().cast_unsigned();
                let Some(starting) = exec.starting.take() else {
                    return;
                };
                self.poller.remove(&starting.channel);
                let fds: Vec<OwnedFd> = starting.terminal.into_iter().collect();
                let terminal = (!fds.is_empty()).then_some(FdSlot(0));
                self.outbox.reply(starting.caller, Ok(Answer::ExecStarted { pid, terminal }), fds);
            }
        }
    }

    pub(super) fn exec_failed(&mut self, exec: Exec, error: MonitorError) {
        self.poller.remove(&exec.pidfd);
        let reply = exec.starting.map(|starting| {
            self.poller.remove(&starting.channel);
            (starting.caller, error)
        });
        self.doom(exec.serial, exec.pidfd, reply);
    }

    pub(super) fn exec_ended(&mut self, serial: Serial) {
        // At most: prepared, failed or closed.
        for _ in 0..2 {
            self.exec_reported(serial);
        }
        let Some(at) = self.execs.iter().position(|exec| exec.serial == serial) else {
            return;
        };
        let Some(exit) = self.execs.get(at).and_then(|exec| peek_exit(exec.pidfd.as_fd())) else {
            return;
        };
        let exec = self.execs.swap_remove(at);
        if exec.starting.is_some() {
            return self.exec_failed(exec, died());
        }
        self.poller.remove(&exec.pidfd);
        reap(exec.pidfd.as_fd());
        self.outbox.event(Event::ExecExited { id: exec.id, exit });
    }

    pub(super) fn pause_reported(&mut self) {
        let Some(sandbox) = &mut self.sandbox else {
            return;
        };
        let Some((caller, channel)) = &sandbox.starting else {
            return;
        };
        let caller = *caller;
        match channel.receive() {
            Ok(Received::Nothing | Received::Report(Report::Prepared(_), _)) => {}
            Ok(Received::Report(Report::Failed(error), _)) => {
                self.sandbox_failed(MonitorError::Launch(error));
            }
            Ok(Received::Closed) | Err(_) => {
                self.poller.remove(channel);
                sandbox.starting = None;
                self.answer_sandbox(caller);
            }
        }
    }

    pub(super) fn answer_sandbox(&mut self, caller: Caller) {
        let Some(sandbox) = &self.sandbox else {
            return;
        };
        let (Ok(pidfd), Ok(netns)) = (sandbox.pidfd.try_clone(), sandbox.netns.try_clone()) else {
            return self.sandbox_failed(died());
        };
        let answer = Answer::SandboxCreated {
            pause_pid: sandbox.pid.as_raw_nonzero().get().cast_unsigned(),
            pidfd: FdSlot(0),
            netns: FdSlot(1),
        };
        self.outbox.reply(caller, Ok(answer), vec![pidfd, netns]);
    }

    pub(super) fn sandbox_failed(&mut self, error: MonitorError) {
        let Some(sandbox) = self.sandbox.take() else {
            return;
        };
        self.poller.remove(&sandbox.pidfd);
        let reply = sandbox.starting.map(|(caller, channel)| {
            self.poller.remove(&channel);
            (caller, error)
        });
        let _gone = crate::sys::signal::send(sandbox.pidfd.as_fd(), libc::SIGKILL);
        let serial = self.next_serial();
        self.doom(serial, sandbox.pidfd, reply);
    }

    pub(super) fn pause_ended(&mut self) {
        self.pause_reported();
        let Some(sandbox) = &mut self.sandbox else {
            return;
        };
        let Some(exit) = peek_exit(sandbox.pidfd.as_fd()) else {
            return;
        };
        if sandbox.starting.is_some() {
            return self.sandbox_failed(died());
        }
        sandbox.alive = false;
        self.poller.remove(&sandbox.pidfd);
        reap(sandbox.pidfd.as_fd());
        if self.shutdown.is_none() {
            self.outbox.event(Event::SandboxExited { exit });
        }
    }
}
