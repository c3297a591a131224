//! The metadata, asked over the network: finds the leader, and tries again where that is safe.
//!
//! Every request may be sent twice: those with a name are carried out once, and the others change nothing the second
//! time. So a request goes on until it is answered or its patience ends, whoever leads meanwhile.

use crate::{MetaError, gate::Gated};
use arc_swap::ArcSwap;
use bytes::Bytes;
use holdfast_core::{buffer::BufferPool, codec, ids::HostId, kv::KvError, roles::Role};
use holdfast_meta_raft_machine::{
    CLUSTER_VERSION,
    ask::{Ask, HeaderNow, Question, Topology, TopologyBefore3, TopologyBefore6, TopologyNow},
    command::{self, Outcome, Request},
};
use holdfast_net::{NetError, Remote, RetryBudget, Target, Tls};
use holdfast_proto::{self as proto, HealthNow, call::Method, failure::Code, reply};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};

/// How long a request goes on looking for somebody who answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long one member may take.
const TRY: Duration = Duration::from_secs(3);

/// The pause between rounds over all members.
const PAUSE: Duration = Duration::from_millis(40);

/// Submissions that share a call.
const BATCH: usize = 256;

/// Calls with submissions that are under way at once.
const SUBMITS: usize = 8;

/// Submissions that wait.
const QUEUE: usize = 16_384;

struct Job {
    requests: Vec<Request>,
    answer: oneshot::Sender<Result<Vec<Outcome>, MetaError>>,
}

struct Inner {
    tls: Tls,
    pool: BufferPool,
    seeds: Vec<Remote>,
    members: ArcSwap<BTreeMap<HostId, Remote>>,
    /// Who led when last heard; 0 where unknown.
    leader: AtomicU64,
    turn: AtomicUsize,
    /// The version that all members understand, as last heard; 0 where it is not known.
    version: AtomicU32,
    retries: RetryBudget,
    started: Instant,
}

/// The metadata behind the network. Cheap to clone.
#[derive(Clone)]
pub struct RemoteMeta {
    inner: Arc<Inner>,
    queue: mpsc::Sender<Job>,
}

impl RemoteMeta {
    /// The metadata whose members are at `seeds`, at least one of them. Must be called within a runtime.
    pub fn start(tls: Tls, seeds: &[String], pool: BufferPool) -> Self {
        let seed = |address: &String| {
            Remote::new(tls.clone(), Target::Any(Role::Meta), address.clone(), pool.clone())
        };
        let inner = Arc::new(Inner {
            seeds: seeds.iter().map(seed).collect(),
            tls,
            pool,
            members: ArcSwap::default(),
            leader: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
            version: AtomicU32::new(0),
            retries: RetryBudget::default(),
            started: Instant::now(),
        });
        let (queue, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(run(inner.clone(), jobs));
        Self { inner, queue }
    }

    /// See [`crate::MetaHandle::submit`].
    ///
    /// # Errors
    /// The future's: where nobody answered in time, when it is unknown whether the requests are carried out.
    pub fn submit(
        &self,
        requests: Vec<Request>,
    ) -> impl Future<Output = Result<Vec<Outcome>, MetaError>> + Send + use<> {
        let (answer, outcome) = oneshot::channel();
        let mut gated = Gated::new(requests, self.inner.version.load(Ordering::Acquire));
        let requests = std::mem::take(&mut gated.allowed);
        let queued = match requests.is_empty() {
            true => Ok(false),
            false => self.queue.try_send(Job { requests, answer }).map(|()| true),
        };
        let queued = queued.map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => MetaError::Busy,
            mpsc::error::TrySendError::Closed(_) => MetaError::Stopped,
        });
        async move {
            let outcomes = if queued? { outcome.await.map_err(|_| MetaError::Stopped)?? } else { Vec::new() };
            Ok(gated.merge(outcomes))
        }
    }

    /// The linearizable answer to a question.
    ///
    /// # Errors
    /// Where nobody answered in time.
    pub async fn ask<Q: Question>(&self, question: Q) -> Result<Q::Answer, MetaError> {
        let ask: Ask = question.into();
        let payload = Bytes::from(ask.to_bytes());
        let (_, bytes) = self.inner.call(Method::Ask(proto::Ask {}), payload, PATIENCE).await?;
        Ok(codec::decode("an answer of the metadata", &bytes).map_err(KvError::from)?)
    }

    /// Calls whichever member answers, the leader first.
    ///
    /// # Errors
    /// Where nobody answered in time, or it was refused.
    pub async fn call(&self, method: Method, payload: Bytes) -> Result<reply::Result, MetaError> {
        Ok(self.inner.call(method, payload, PATIENCE).await?.0)
    }

    /// How the cluster is, as the leader sees it.
    ///
    /// # Errors
    /// Where nobody answered in time.
    pub async fn health(&self) -> Result<HealthNow, MetaError> {
        let ask = async || {
            let answer = self.call(Method::Health(proto::Health {}), Bytes::new()).await?;
            let reply::Result::Health(health) = answer else {
                return Err(MetaError::Refused("the metadata answered with something else".to_owned()));
            };
            Ok(health)
        };
        let health = ask().await?;
        if health.leads || health.leader == 0 {
            return Ok(health);
        }
        // What only the leader knows, it says, if it can be reached.
        self.inner.leader.store(health.leader, Ordering::Relaxed);
        ask().await
    }

    /// Tells all members something that needs no answer.
    pub fn tell_all(&self, method: &Method) {
        let members = self.inner.members.load();
        let members: Vec<Remote> =
            if members.is_empty() { self.inner.seeds.clone() } else { members.values().cloned().collect() };
        members.iter().for_each(|member| member.tell(method.clone(), Bytes::new()));
    }

    /// Tells all members something, and waits until each of them has heard it or `patience` is over.
    pub async fn say_to_all(&self, method: &Method, patience: Duration) {
        let members = self.inner.members.load();
        let heard = members.values().map(|member| member.call(method.clone(), Bytes::new(), patience));
        // Whoever cannot be reached finds out by the silence.
        let _heard = futures::future::join_all(heard).await;
    }

    /// Who belongs to the cluster, and what is where.
    ///
    /// # Errors
    /// Where nobody answered in time.
    pub async fn topology(&self) -> Result<Topology, MetaError> {
        // A member of a version before, in the middle of an upgrade, does not know the later questions.
        match self.ask(TopologyNow {}).await {
            Err(MetaError::Refused(_)) => {}
            other => return other,
        }
        match self.ask(TopologyBefore6 {}).await {
            Err(MetaError::Refused(_)) => Ok(self.ask(TopologyBefore3 {}).await?.into()),
            other => other.map(Topology::from),
        }
    }

    /// Reads who belongs to the cluster, and speaks with its members from then on.
    ///
    /// # Errors
    /// Where nobody answered in time.
    pub async fn refresh(&self) -> Result<Topology, MetaError> {
        let topology = self.topology().await?;
        if self.inner.version.load(Ordering::Acquire) < CLUSTER_VERSION {
            let version = self.ask(HeaderNow {}).await?.map_or(0, |header| header.cluster_version);
            self.inner.version.store(version, Ordering::Release);
        }
        let known = self.inner.members.load();
        let mut members = BTreeMap::new();
        for (id, host) in topology.members() {
            let remote = known.get(&id).filter(|remote| remote.address() == host.address).cloned();
            let remote = remote.unwrap_or_else(|| {
                let Inner { tls, pool, .. } = &*self.inner;
                Remote::new(tls.clone(), Target::Host(id), host.address.clone(), pool.clone())
            });
            members.insert(id, remote);
        }
        self.inner.members.store(Arc::new(members));
        Ok(topology)
    }
}

impl Inner {
    /// Whom to try now: the leader where it is known, or else whoever answered last, or the next one.
    fn pick(&self) -> Option<Remote> {
        let members = self.members.load();
        let leader = HostId(self.leader.load(Ordering::Relaxed));
        if let Some(remote) = members.get(&leader) {
            return Some(remote.clone());
        }
        // Whoever answered is asked again: what is sent on one connection keeps its order.
        let turn = self.turn.load(Ordering::Relaxed);
        // The seeds too: the members that were known may all be gone, and another be found where one of them was.
        members.values().chain(&self.seeds).nth(turn % (members.len() + self.seeds.len()).max(1)).cloned()
    }

    /// What to make of a failed try: `None` where another may do better.
    fn learn(&self, error: &NetError) -> Option<MetaError> {
        match error {
            NetError::Failed(failure) => match failure.code() {
                Code::NotLeader if failure.given == 0 => self.forget_leader(),
                Code::NotLeader => self.leader.store(failure.given, Ordering::Relaxed),
                Code::Busy | Code::Stopping | Code::Deadline | Code::Internal => self.forget_leader(),
                Code::Unknown
                | Code::Unimplemented
                | Code::Denied
                | Code::BadRequest
                | Code::NotFound
                | Code::Damaged
                | Code::StaleEpoch
                | Code::Full
                | Code::Range
                | Code::Disk
                | Code::Index
                | Code::NoDevice
                | Code::Another => return Some(MetaError::Refused(failure.message.clone())),
            },
            NetError::Unreachable { .. }
            | NetError::Broken(_)
            | NetError::Deadline(_)
            | NetError::Protocol(_) => {
                self.forget_leader();
            }
        }
        None
    }

    fn forget_leader(&self) {
        self.leader.store(0, Ordering::Relaxed);
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    async fn call(
        &self,
        method: Method,
        payload: Bytes,
        patience: Duration,
    ) -> Result<(reply::Result, Bytes), MetaError> {
        let deadline = Instant::now() + patience;
        let mut tries = 0;
        loop {
            let Some(remote) = self.pick() else {
                return Err(MetaError::Unreachable("no member is known".to_owned()));
            };
            let error = match remote.call(method.clone(), payload.clone(), TRY).await {
                Ok(answer) => {
                    self.retries.succeeded();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if let Some(refused) = self.learn(&error) {
                return Err(refused);
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(MetaError::Unreachable(error.to_string()));
            }
            tries += 1;
            // A hint is followed at once; a whole round without an answer is followed by a pause.
            if tries % self.members.load().len().max(self.seeds.len()).max(1) == 0 {
                tokio::time::sleep(PAUSE).await;
            }
            while let Err(wait) = self.retries.take(self.started.elapsed()) {
                if Instant::now() + wait >= deadline {
                    return Err(MetaError::Unreachable(error.to_string()));
                }
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Sends submissions, in order, many to a call.
async fn run(inner: Arc<Inner>, mut jobs: mpsc::Receiver<Job>) {
    let permits = Arc::new(Semaphore::new(SUBMITS));
    while let Some(first) = jobs.recv().await {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        let mut counts = Vec::with_capacity(batch.len());
        let mut requests = Vec::new();
        for job in batch {
            counts.push((job.requests.len(), job.answer));
            requests.extend(job.requests);
        }
        let payload = Bytes::from(command::encode_requests(requests));
        // The first try is sent from here, so that calls leave in order.
        let method = || Method::Submit(proto::Submit {});
        let first = match inner.pick() {
            Some(remote) => remote.start(method(), payload.clone(), TRY).await.ok(),
            None => None,
        };
        let inner = inner.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let answer = match first {
                Some(pending) => match pending.answer().await {
                    Ok(answer) => Ok(answer),
                    Err(error) => match inner.learn(&error) {
                        Some(refused) => Err(refused),
                        None => inner.call(method(), payload, PATIENCE).await,
                    },
                },
                None => {
                    inner.forget_leader();
                    inner.call(method(), payload, PATIENCE).await
                }
            };
            let outcomes = answer.and_then(|(_, bytes)| {
                command::decode_outcomes(&bytes).map_err(|error| MetaError::Store(error.into()))
            });
            match outcomes {
                Ok(outcomes) => {
                    let mut outcomes = outcomes.into_iter();
                    for (count, answer) in counts {
                        let _unheard = answer.send(Ok(outcomes.by_ref().take(count).collect()));
                    }
                }
                Err(error) => {
                    for (_, answer) in counts {
                        let _unheard = answer.send(Err(MetaError::Unreachable(error.to_string())));
                    }
                }
            }
        });
    }
}
