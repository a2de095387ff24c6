//! A future whose parts wake each other, polled until none of them has anything left to do.
//!
//! The parts of a call (the caller's connection, the rules, the upstream's connection) are one task and hand things to
//! each other through channels that wake it. A runtime takes a task that woke itself for work that another thread may
//! steal: it wakes one, and the call goes on there. Here such a wake only means one more turn at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Turns without a break, at most. Then others get theirs.
const TURNS: usize = 16;

/// Nobody polls.
const IDLE: u8 = 0;
/// A turn is under way.
const TURN: u8 = 1;
/// Another turn is wanted: whoever polls takes it, or the task has been woken for it.
const RUNG: u8 = 2;

#[derive(Default)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(RUNG, AcqRel) == IDLE {
            self.task.wake();
        }
    }
}

/// What a future is polled through.
pub(super) struct Turns {
    bell: Arc<Bell>,
    waker: Waker,
}

impl Turns {
    /// For one future.
    pub(super) fn new() -> Turns {
        let bell = Arc::new(Bell::default());
        Turns {
            waker: Waker::from(bell.clone()),
            bell,
        }
    }

    /// Polls the future as `turn` does it, until it waits for somebody else.
    pub(super) fn poll<R>(&self, task: &mut Context<'_>, mut turn: impl FnMut(&mut Context<'_>) -> Poll<R>) -> Poll<R> {
        self.bell.task.register(task.waker());
        for _ in 0..TURNS {
            self.bell.state.store(TURN, Release);
            let polled = turn(&mut Context::from_waker(&self.waker));
            if polled.is_ready() {
                return polled;
            }
            if self.bell.state.compare_exchange(TURN, IDLE, AcqRel, Acquire).is_ok() {
                return Poll::Pending;
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use std::pin::pin;

    use super::*;

    async fn turns<F: Future>(future: F) -> F::Output {
        let (mut future, turns) = (pin!(future), Turns::new());
        std::future::poll_fn(|cx| turns.poll(cx, |cx| future.as_mut().poll(cx))).await
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_future_that_wakes_itself_goes_on_without_its_task() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut left = 5;
        let mut running = pin!(turns(std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            left -= 1;
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        })));
        assert!(running.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
        assert_eq!(count.0.load(SeqCst), 0);
    }

    #[test]
    fn one_that_never_ends_lets_others_go_on_and_is_woken_again() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut polls = 0;
        let mut running = pin!(turns(std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            polls += 1;
            if polls == 3 * TURNS {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })));
        for woken in 1..3 {
            assert!(running.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            assert_eq!(count.0.load(SeqCst), woken);
        }
        assert!(running.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_wake_from_elsewhere_is_never_lost() {
        let (there, mut back) = (
            tokio::sync::mpsc::channel::<u32>(1),
            tokio::sync::mpsc::channel::<u32>(1),
        );
        let (to, mut from) = there;
        let echo = tokio::spawn(async move {
            while let Some(number) = from.recv().await {
                if back.0.send(number).await.is_err() {
                    return;
                }
            }
        });
        let ping = turns(async move {
            for number in 0..20_000 {
                to.send(number).await.ok()?;
                assert_eq!(back.1.recv().await?, number);
            }
            Some(())
        });
        tokio::time::timeout(std::time::Duration::from_secs(60), ping)
            .await
            .expect("it ends")
            .expect("the other side is there");
        echo.await.expect("it ends when the way in is gone");
    }
}
