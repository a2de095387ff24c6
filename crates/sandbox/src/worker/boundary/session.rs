//! The boundary of one session: made before its sandbox, changed while it stands, ended with it.
//!
//! [`Boundary::prepare`] asks the server, brings what the sandbox is furnished with, and gives a [`Plan`];
//! [`Boundary::raise`] takes the sandbox's fence and stands in it. If either fails, nothing runs. What changes on the
//! server holds from the next connection on; what a standing sandbox cannot be given (another variable, a mount, a network
//! where it has none) makes the plan stale, and the next call gets a fresh sandbox.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outwork_client::{BoundaryStop, Client};
use outwork_egress::secret::SecretSet;
use outwork_egress::{Egress, Handle, Labels, LedgerEvidence, Options, Policy, Refusal, SessionAuthority};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::error::BoundaryError;
use super::follow::{BREATH, Follower, LONGEST_WAIT};
use super::journal::Journal;
use super::machine::{Machine, Registered};
use super::outputs::Outputs;
use super::packages::Stand;
use super::repository::Repository;
use super::rules::{self, Rules};
use super::said::{self, Answers, Said};
use super::secrets::{self, Placeholders};
use super::{files, git, packages};
use crate::worker::backoff;
use crate::worker::hand::{Furnishing, Hand, Provider};
use crate::worker::lease::LeaseState;
use crate::{Fence, Isolation, Network};

/// How long all that a sandbox is furnished with may take to come.
const PREPARING: Duration = Duration::from_secs(1800);
/// How long the records of a session may take to be handed over.
const HANDING_OVER: Duration = Duration::from_secs(10);

/// What a session's boundary is made from.
pub(crate) struct Site {
    pub client: Client,
    pub session: String,
    pub environment: String,
    pub workspace: PathBuf,
    pub provider: Arc<dyn Provider>,
    pub lease: watch::Receiver<LeaseState>,
}

/// The boundary of one session.
pub(crate) struct Boundary {
    pub machine: Arc<Machine>,
    pub client: Client,
    pub session: String,
    pub workspace: PathBuf,
    /// The worker's own folder for this session.
    pub folder: PathBuf,
    pub provider: Arc<dyn Provider>,
    pub journal: Arc<Journal>,
    pub outputs: Outputs,
    lease: watch::Receiver<LeaseState>,
    live: Mutex<Live>,
    /// One plan is made at a time.
    building: tokio::sync::Mutex<Placeholders>,
    stop: watch::Sender<Option<BoundaryStop>>,
}

#[derive(Default)]
struct Live {
    plan: Option<Arc<Plan>>,
    /// What is in force, with a sandbox or without one.
    force: Option<(Policy, SecretSet)>,
    /// Counts what the server said anew: what was asked for before it is not put in force any more.
    generation: u64,
    /// Why nothing may run any more.
    broken: Option<String>,
    /// No sandbox may be made again.
    ended: bool,
    egress: Option<Handle>,
    authority: Option<Arc<SessionAuthority>>,
    follower: Option<AbortOnDropHandle<()>>,
}

/// What holds for a session, and what its sandbox is launched with.
pub(crate) struct Plan {
    pub furnishing: Furnishing,
    stand: Option<Stand>,
    rules: Rules,
    secrets: SecretSet,
    repositories: Vec<Repository>,
    hash: Option<String>,
}

/// Whether a sandbox that stands may take a call.
pub(crate) enum Standing {
    /// It may.
    Good,
    /// A fresh one has to be made.
    Stale,
    /// No sandbox may.
    Broken(String),
}

impl Boundary {
    /// Begins the session's records; nothing is asked or made yet.
    pub async fn begin(machine: Arc<Machine>, site: Site) -> Result<Arc<Self>, BoundaryError> {
        let folder = machine.state.session(&site.session);
        let folder = folder.map_err(BoundaryError::folder(&site.session))?;
        let labels = Labels {
            session: Some(site.session.clone()),
            environment: Some(site.environment),
            worker: Some(machine.worker.clone()),
            image_digest: Some(machine.root.digest.clone()),
            ..Labels::default()
        };
        let journal = Arc::new(Journal::new(machine.ledger.clone(), labels));
        journal.session_begins().await?;
        let outputs = Outputs::new(&folder, &machine.options.outputs)?;
        Ok(Arc::new(Self {
            client: site.client,
            session: site.session,
            workspace: site.workspace,
            folder,
            provider: site.provider,
            journal,
            outputs,
            lease: site.lease,
            live: Mutex::default(),
            building: tokio::sync::Mutex::default(),
            stop: watch::Sender::new(None),
            machine,
        }))
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        // Fields are replaced one by one, each of them whole, so it is whole even after a panic.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the server wants stopped.
    pub fn stops(&self) -> watch::Receiver<Option<BoundaryStop>> {
        self.stop.subscribe()
    }

    /// The secrets of the moment, to look for them in what leaves.
    pub fn secrets(&self) -> SecretSet {
        let live = self.live();
        live.plan
            .as_ref()
            .map_or_else(SecretSet::empty, |plan| plan.secrets.clone())
    }

    /// What was refused to the sandbox lately.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.live().egress.as_ref().map(Handle::refusals).unwrap_or_default()
    }

    /// Whether the server takes outputs.
    pub fn has_outputs(&self) -> bool {
        let live = self.live();
        live.plan.as_ref().is_some_and(|plan| plan.furnishing.outputs.is_some())
    }

    /// Waits until the item is known to be this worker's, or not.
    pub async fn until_held(&self) {
        let mut lease = self.lease.clone();
        // If nobody beats any more, the session ends.
        let _ = lease.wait_for(|state| state.held || state.end.is_some()).await;
    }

    /// Asks the server, brings what belongs into the sandbox, and puts the policy in force.
    pub async fn prepare(self: &Arc<Self>) -> Result<Arc<Plan>, BoundaryError> {
        let prepared = tokio::time::timeout(PREPARING, self.build_patiently()).await;
        prepared.map_err(|_| BoundaryError::Deadline(PREPARING))?
    }

    /// A server that is away for a moment does not end what is being prepared: the item's lease says when to give up.
    async fn build_patiently(self: &Arc<Self>) -> Result<Arc<Plan>, BoundaryError> {
        let mut failures = 0;
        loop {
            match self.build().await {
                Err(error) if error.is_passing() && self.lease.borrow().end.is_none() => {
                    failures += 1;
                    let wait = backoff::half_to_full(backoff::doubling(BREATH, failures, LONGEST_WAIT));
                    tracing::warn!(session = self.session, ?wait, %error, "the boundary cannot be prepared yet");
                    let mut lease = self.lease.clone();
                    tokio::select! {
                        () = sleep(wait) => {}
                        _ = lease.wait_for(|state| state.end.is_some()) => return Err(error),
                    }
                }
                built => return built,
            }
        }
    }

    async fn build(self: &Arc<Self>) -> Result<Arc<Plan>, BoundaryError> {
        let mut placeholders = self.building.lock().await;
        loop {
            let generation = self.live().generation;
            let answers = said::ask(&self.client, &self.session).await?;
            if answers.said.is_none() && self.machine.server_decides {
                return Err(BoundaryError::Unknown);
            }
            if let Some(said) = &answers.said {
                self.follow(&said.hash);
            }
            let plan = Arc::new(self.plan(&answers, generation, &mut placeholders).await?);
            let (policy, secrets) = (&plan.rules.policy, &plan.secrets);
            if self.enforce(policy, secrets, generation, Some(&plan)).await? {
                return Ok(plan);
            }
            // The server said something else meanwhile.
        }
    }

    async fn plan(
        &self,
        answers: &Answers,
        generation: u64,
        placeholders: &mut Placeholders,
    ) -> Result<Plan, BoundaryError> {
        let said = answers.said.as_ref();
        if let Some(said) = said {
            self.journal.label(said);
        }
        let given = answers.secrets.as_ref();
        let own = self.machine.options.policy.as_ref();
        let repositories = Repository::among(&answers.mounts)?;
        let own_secrets = self.machine.own_secrets().await?;
        let secrets = secrets::of_session(given, &own_secrets, &repositories, placeholders)?;
        let rules = rules::of_session(said, own, &repositories, !secrets.set.is_empty())?;
        if self.machine.isolation == Isolation::None {
            answers.without_isolation(!secrets.set.is_empty())?;
            return Ok(Plan {
                furnishing: Furnishing::default(),
                stand: None,
                rules,
                secrets: secrets.set,
                repositories,
                hash: said.map(|said| said.hash.clone()),
            });
        }
        // What is taken away holds before what is brought, which may take a while.
        self.enforce(&rules.policy, &secrets.set, generation, None).await?;
        let stand = packages::stand(self, said).await?;
        let mut mounts = files::bring(&self.client, &self.journal, &self.folder, &answers.mounts).await?;
        for repository in &repositories {
            let token = secrets::of_one_repository(given, repository, placeholders)?;
            let rules = rules::of_repository(said, own, repository);
            mounts.extend(git::bring(self, repository, rules, token).await?);
        }
        let fenced = rules.open || !secrets.set.is_empty();
        let authority = fenced.then(|| self.authority()).transpose()?;
        Ok(Plan {
            furnishing: Furnishing {
                network: if fenced { Network::Fenced } else { Network::None },
                image: stand.image.clone(),
                // Placeholders over what the image says.
                env: self.machine.root.env.iter().cloned().chain(secrets.env).collect(),
                mounts,
                outputs: said.map(|_| self.outputs.folder().to_path_buf()),
                ca_pem: authority.map(|authority| self.trusted(&authority)),
                devices: self.machine.options.devices.clone(),
                build: None,
            },
            stand: Some(stand),
            rules,
            secrets: secrets.set,
            repositories,
            hash: said.map(|said| said.hash.clone()),
        })
    }

    /// The session's authority, made when it is first needed.
    fn authority(&self) -> Result<Arc<SessionAuthority>, BoundaryError> {
        if let Some(authority) = &self.live().authority {
            return Ok(Arc::clone(authority));
        }
        let made = Arc::new(SessionAuthority::make().map_err(BoundaryError::Egress)?);
        Ok(self.live().authority.get_or_insert(made).clone())
    }

    /// What a sandbox trusts besides its root filesystem's authorities.
    pub fn trusted(&self, authority: &SessionAuthority) -> String {
        format!("{}\n{}", authority.certificate_pem(), self.machine.upstream_roots)
    }

    /// Puts a policy and secrets in force, with the plan that they are of, whether a sandbox stands or not. It is recorded
    /// before it holds. False if the server has said something else since they were asked for: then nothing is changed.
    async fn enforce(
        &self,
        policy: &Policy,
        secrets: &SecretSet,
        generation: u64,
        plan: Option<&Arc<Plan>>,
    ) -> Result<bool, BoundaryError> {
        if self.live().generation != generation {
            return Ok(false);
        }
        self.journal.policy_applied(policy).await?;
        let mut live = self.live();
        if live.generation != generation {
            return Ok(false);
        }
        live.put_in_force(policy.clone(), secrets.clone());
        if let Some(plan) = plan {
            live.plan = Some(Arc::clone(plan));
            if !live.ended {
                live.broken = None;
            }
        }
        Ok(true)
    }

    /// Options of a proxy in a fence, with all that the worker's sandboxes share.
    pub fn egress_options(
        &self,
        fence: Fence,
        policy: Policy,
        authority: Arc<SessionAuthority>,
    ) -> Result<Options, BoundaryError> {
        let mut options = Options::new(
            (fence.tcp, fence.dns),
            policy,
            authority,
            Arc::new(LedgerEvidence::queued(self.machine.ledger.clone())),
            self.machine.resolver()?,
            self.machine.upstream()?,
        );
        options.connector = self.machine.connector();
        options.labels = self.journal.labels();
        Ok(options)
    }

    /// Stands in a new sandbox's fence. Until this returned, the sandbox takes no call.
    pub async fn raise(&self, plan: &Plan, hand: &Arc<dyn Hand>) -> Result<Registered, BoundaryError> {
        let registered = self.register(hand)?;
        // On every record of the sandbox, those of its proxy included.
        if let Some(stand) = &plan.stand {
            self.journal.set_image(&stand.digest);
        }
        let egress = match plan.furnishing.network {
            Network::None => None,
            Network::Fenced => {
                let fence = hand.take_fence().ok_or(BoundaryError::NoFence)?;
                // What is in force is put in below, when nobody can change it meanwhile.
                let options = self.egress_options(fence, Policy::nothing(), self.authority()?)?;
                Some(Egress::start(options).map_err(BoundaryError::Egress)?)
            }
        };
        self.journal.sandbox_begins().await?;
        let mut live = self.live();
        if let Some(reason) = &live.broken {
            return Err(BoundaryError::Shut(reason.clone()));
        }
        live.egress = egress;
        let (policy, secrets) = match &live.force {
            Some(force) => force.clone(),
            None => (Policy::nothing(), SecretSet::empty()),
        };
        live.put_in_force(policy, secrets);
        Ok(registered)
    }

    /// Notes a sandbox that is made for this session, whatever for. None may stand after the session was stopped by force.
    pub fn register(&self, hand: &Arc<dyn Hand>) -> Result<Registered, BoundaryError> {
        let registered = self.machine.register(&self.session, hand)?;
        // After it was noted: a stop that did not see it is seen here.
        match self.live().ended {
            true => Err(BoundaryError::Halted),
            false => Ok(registered),
        }
    }

    /// The sandbox has ended.
    pub async fn lower(&self, reason: &str) {
        self.live().egress = None;
        self.journal.sandbox_ended(reason).await;
    }

    /// Whether a sandbox that was launched with this plan may take a call.
    pub fn standing(&self, plan: &Arc<Plan>) -> Standing {
        let live = self.live();
        match (&live.broken, &live.plan) {
            (Some(reason), _) => Standing::Broken(reason.clone()),
            (None, Some(now)) if now.furnishing == plan.furnishing => Standing::Good,
            (None, _) => Standing::Stale,
        }
    }

    /// The session is not served any more. Of one that is over, nothing is kept but what must be sent.
    ///
    /// What the ledger has of it is handed over if the server takes it, and if it may: an item that is another worker's
    /// is left alone.
    pub async fn ended(&self, reason: &str, over: bool, may_send: bool) {
        self.live().follower = None;
        self.journal.session_ended(reason).await;
        let knows = self.live().plan.as_ref().is_some_and(|plan| plan.hash.is_some());
        if may_send && knows {
            match tokio::time::timeout(HANDING_OVER, self.journal.hand_over(&self.client, &self.session)).await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => {
                    tracing::warn!(
                        session = self.session,
                        reason,
                        "records were not handed over; the ledger keeps them"
                    );
                }
                Err(_) => tracing::warn!(session = self.session, "records were not handed over in time"),
            }
        }
        if over && self.outputs.is_sent() {
            let folder = self.folder.clone();
            let removed = tokio::task::spawn_blocking(move || outwork_image::remove_tree(&folder)).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(session = self.session, %error, "the worker's folder of the session is left behind");
            }
        }
    }

    /// Ends every sandbox of the session at once.
    pub async fn kill(&self) {
        let begun = Instant::now();
        {
            let mut live = self.live();
            live.ended = true;
            live.broken = Some("it was stopped by force".to_owned());
            live.follower = None;
        }
        let ended = self.machine.kill(&self.session).await;
        tracing::warn!(session = self.session, ended, took = ?begun.elapsed(), "sandboxes were ended by force");
    }

    /// Keeps up with the server from now on, if it can say what changes.
    fn follow(self: &Arc<Self>, hash: &str) {
        let mut live = self.live();
        if live.follower.is_none() && !live.ended {
            let follower = Follower {
                boundary: Arc::downgrade(self),
                client: self.client.clone(),
                session: self.session.clone(),
            };
            let follower = follower.run(hash.to_owned());
            live.follower = Some(AbortOnDropHandle::new(tokio::spawn(follower)));
        }
    }

    /// Something changed. An error says that it has to be tried again; meanwhile nothing crosses.
    pub(super) async fn changed(self: &Arc<Self>, said: Said) -> Result<(), BoundaryError> {
        self.stop.send_if_modified(|stop| {
            let is_news = *stop != said.stop;
            *stop = said.stop;
            is_news
        });
        if said.stop.is_some() {
            return Ok(());
        }
        let (generation, known) = {
            let mut live = self.live();
            live.generation += 1;
            (live.generation, live.plan.clone())
        };
        if let Some(known) = known {
            // The policy holds at once; the rest is asked for.
            let own = self.machine.options.policy.as_ref();
            let has_secrets = !known.secrets.is_empty();
            let rules = rules::of_session(Some(&said), own, &known.repositories, has_secrets)?;
            self.enforce(&rules.policy, &known.secrets, generation, None).await?;
        }
        let built = tokio::time::timeout(PREPARING, self.build()).await;
        built.map_err(|_| BoundaryError::Deadline(PREPARING))?.map(drop)
    }

    /// Nothing crosses, and no call runs, until it is known again what holds.
    pub(super) async fn shut(&self, reason: &BoundaryError) {
        tracing::error!(session = self.session, %reason, "the session's boundary is shut");
        let nothing = Policy::nothing();
        {
            let mut live = self.live();
            // What is being built knows less than this.
            live.generation += 1;
            live.broken = Some(reason.to_string());
            live.put_in_force(nothing.clone(), SecretSet::empty());
        }
        // It is shut even if that cannot be recorded.
        let _ = self.journal.policy_applied(&nothing).await;
    }
}

impl Live {
    fn put_in_force(&mut self, policy: Policy, secrets: SecretSet) {
        if let Some(egress) = &self.egress {
            egress.set_secrets(secrets.clone());
            egress.set_policy(policy.clone());
        }
        self.force = Some((policy, secrets));
    }
}
