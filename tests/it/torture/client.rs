//! A client of the API over the local socket, and the model of what it was promised.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::random::Random;
use crate::ask::ask;

/// Before a daemon that was just killed is asked again.
const AGAIN: Duration = Duration::from_millis(2);
/// How many small objects there are.
const OBJECTS: u64 = 12;

/// What is still to be done, whatever it takes.
#[derive(Debug, Clone)]
pub enum Order {
    Create(Value),
    Delete(String),
}

/// What may be stored under a name.
#[derive(Debug, Clone, Default, PartialEq)]
struct Promised {
    /// The last acknowledged content; none when it is not there.
    sure: Option<u64>,
    /// What was asked for without an answer.
    maybe: Option<Option<u64>>,
}

/// Asks as fast as it is answered.
#[derive(Debug)]
pub struct Client {
    random: Random,
    objects: BTreeMap<u64, Promised>,
    written: u64,
    newest: u64,
    pub acknowledged: u64,
    pub unanswered: u64,
}

impl Client {
    pub fn new(random: Random) -> Self {
        Self { random, objects: BTreeMap::new(), written: 0, newest: 0, acknowledged: 0, unanswered: 0 }
    }

    /// Until all orders are done, and then until it is told to stop.
    pub fn work(&mut self, mut orders: Vec<Order>, stop: &AtomicBool) -> Result<()> {
        orders.reverse();
        while !orders.is_empty() || !stop.load(Ordering::Relaxed) {
            match orders.last() {
                // Between objects, so that all kinds of deaths meet all kinds of orders.
                Some(order) if self.random.below(3) == 0 => {
                    if self.follow(order)? {
                        orders.pop();
                    }
                }
                _ => self.touch()?,
            }
        }
        Ok(())
    }

    /// Whether it is done.
    fn follow(&mut self, order: &Order) -> Result<bool> {
        let answer = match order {
            Order::Create(pod) => self.ask("POST", "/api/v1/namespaces/default/pods", Some(pod)),
            Order::Delete(name) => self.ask("DELETE", &format!("/api/v1/namespaces/default/pods/{name}"), None),
        };
        let Some((status, body)) = answer else { return Ok(false) };
        match (order, status) {
            (_, 200..=202) | (Order::Create(_), 409) | (Order::Delete(_), 404) => Ok(true),
            // Another one was quicker: the node writes statuses.
            (Order::Delete(_), 409) => Ok(false),
            _ => bail!("{order:?} was answered with {status} {body}"),
        }
    }

    fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        match ask(method, path, body) {
            Ok(answer) => {
                self.acknowledged += 1;
                Some(answer)
            }
            Err(_) => {
                self.unanswered += 1;
                std::thread::sleep(AGAIN);
                None
            }
        }
    }

    /// One change of one object, or a look at what became of it.
    fn touch(&mut self) -> Result<()> {
        let number = self.random.below(OBJECTS);
        let promised = self.objects.get(&number).cloned().unwrap_or_default();
        if promised.maybe.is_some() || self.random.below(4) == 0 {
            return self.look(number);
        }
        self.written += 1;
        let wanted = (promised.sure.is_none() || self.random.below(4) != 0).then_some(self.written);
        let (all, one) = ("/api/v1/namespaces/default/configmaps", format!("object-{number}"));
        let path = format!("{all}/{one}");
        let body = wanted.map(|content| {
            let data = json!({"content": content.to_string(), "filler": "x".repeat(usize::from(content.to_le_bytes()[0]) * 8)});
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": one}, "data": data})
        });
        let answer = match (promised.sure, &body) {
            (None, Some(_)) => self.ask("POST", all, body.as_ref()),
            (Some(_), Some(_)) => self.ask("PUT", &path, body.as_ref()),
            (_, None) => self.ask("DELETE", &path, None),
        };
        let promised = match answer {
            None => Promised { maybe: Some(wanted), ..promised },
            Some((200 | 201, body)) => {
                self.take_version(&body)?;
                Promised { sure: wanted, maybe: None }
            }
            Some((status, body)) => bail!("{one}: {promised:?} became {wanted:?}: {status} {body}"),
        };
        self.objects.insert(number, promised);
        Ok(())
    }

    /// Versions only grow, over all lives.
    fn take_version(&mut self, object: &Value) -> Result<()> {
        if object["kind"] == "ConfigMap" {
            let version = object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
            let version = version.with_context(|| format!("no version: {object}"))?;
            ensure!(version > self.newest, "version {version} came after {}", self.newest);
            self.newest = version;
        }
        Ok(())
    }

    fn look(&mut self, number: u64) -> Result<()> {
        let path = format!("/api/v1/namespaces/default/configmaps/object-{number}");
        let Some((status, body)) = self.ask("GET", &path, None) else { return Ok(()) };
        let there = match status {
            200 => Some(body["data"]["content"].as_str().and_then(|text| text.parse().ok()).context("no content")?),
            404 => None,
            _ => bail!("{path}: {status} {body}"),
        };
        let promised = self.objects.get(&number).cloned().unwrap_or_default();
        ensure!(
            there == promised.sure || Some(there) == promised.maybe,
            "object-{number} is {there:?}, and {promised:?} was acknowledged: it is lost"
        );
        self.objects.insert(number, Promised { sure: there, maybe: None });
        Ok(())
    }

    /// Every object is what it should be; the daemon lives.
    pub fn check_all(&mut self) -> Result<()> {
        (0..OBJECTS).try_for_each(|number| self.look(number))
    }
}
