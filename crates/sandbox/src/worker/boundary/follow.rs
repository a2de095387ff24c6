//! Keeping up with what the server says of a session: one question at a time, which the server holds until there is news.
//!
//! News are taken up at once, also while what earlier news asked for is still being brought: that is given up then. What
//! cannot be read, and a server that says nothing more, shut the boundary until it is known again what holds.

use std::sync::{Arc, Weak};
use std::time::Duration;

use outwork_client::{Client, ClientError};
use tokio::time::{Instant, sleep};

use super::error::BoundaryError;
use super::said::{self, Said};
use super::session::Boundary;
use crate::worker::backoff;

/// The shortest time between two questions that the server did not hold.
pub(super) const BREATH: Duration = Duration::from_secs(1);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(30);

type News = Result<Option<outwork_client::Boundary>, ClientError>;

/// Follows one session.
pub(super) struct Follower {
    pub boundary: Weak<Boundary>,
    pub client: Client,
    pub session: String,
}

impl Follower {
    /// Asks the server for changes until the session is gone, which whoever holds this knows.
    pub async fn run(self, mut hash: String) {
        let mut failures = 0;
        let mut next: Option<News> = None;
        loop {
            let asked = Instant::now();
            let news = match next.take() {
                Some(news) => news,
                None => said::changed(&self.client, &self.session, &hash).await,
            };
            let outcome = match news {
                Ok(None) => {
                    failures = 0;
                    sleep(BREATH.saturating_sub(asked.elapsed())).await;
                    continue;
                }
                Ok(Some(news)) => {
                    let Some(boundary) = self.boundary.upgrade() else {
                        return;
                    };
                    let told = news.hash.clone();
                    match Said::read(news) {
                        Err(error) => Err(error),
                        Ok(said) => match self.take_up(&boundary, said, &told).await {
                            Taken::Done(Ok(())) => {
                                hash = told;
                                failures = 0;
                                continue;
                            }
                            Taken::Done(Err(error)) => Err(error),
                            Taken::Newer(news) => {
                                hash = told;
                                next = Some(Ok(Some(*news)));
                                continue;
                            }
                        },
                    }
                }
                // It is away or busy, which says nothing about the session; the lease says when that is too long.
                Err(error) if !says_nothing_usable(&error) => Ok(error),
                Err(source) => Err(BoundaryError::Server {
                    what: "the session's boundary".to_owned(),
                    source,
                }),
            };
            failures += 1;
            let wait = backoff::half_to_full(backoff::doubling(BREATH, failures, LONGEST_WAIT));
            match outcome {
                Ok(error) => {
                    tracing::warn!(session = self.session, ?wait, %error, "changes of the session's boundary cannot be asked for");
                }
                Err(error) => {
                    let Some(boundary) = self.boundary.upgrade() else {
                        return;
                    };
                    boundary.shut(&error).await;
                }
            }
            sleep(wait).await;
        }
    }

    /// Has the boundary take up what was said, and listens for more meanwhile.
    async fn take_up(&self, boundary: &Arc<Boundary>, said: Said, told: &str) -> Taken {
        let mut taking = std::pin::pin!(boundary.changed(said));
        loop {
            let listening = async {
                let news = said::changed(&self.client, &self.session, told).await;
                if !matches!(news, Ok(Some(_))) {
                    sleep(BREATH).await;
                }
                news
            };
            tokio::select! {
                done = &mut taking => return Taken::Done(done),
                news = listening => {
                    if let Ok(Some(news)) = news {
                        return Taken::Newer(Box::new(news));
                    }
                }
            }
        }
    }
}

enum Taken {
    Done(Result<(), BoundaryError>),
    /// The server has said something else before that was done.
    Newer(Box<outwork_client::Boundary>),
}

/// Whether the server did answer, and what holds cannot be learned from it.
fn says_nothing_usable(error: &ClientError) -> bool {
    matches!(error, ClientError::Decode { .. } | ClientError::TooLarge { .. }) || error.is_permanent()
}
