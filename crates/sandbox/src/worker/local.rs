//! This machine's own sandboxes, as a provider.

use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::join;
use tokio_util::sync::CancellationToken;

use super::error::WorkerError;
use super::hand::{Furnishing, Hand, HandFuture, Provider};
use super::options::ServiceOptions;
use crate::{
    Fence, Isolation, Launcher, LauncherOptions, Limits, Report, Sandbox, SandboxError, SandboxOptions, ToolCall,
    ToolOutput, probe,
};

/// The sandboxes of this machine. Refuses where a step of the isolation is missing.
pub(crate) async fn provider(options: &ServiceOptions) -> Result<Arc<dyn Provider>, WorkerError> {
    match options.isolation {
        Isolation::Full => {
            let report = tokio::task::spawn_blocking(probe)
                .await
                .map_err(|e| WorkerError::Isolation(format!("the isolation steps could not be tried: {e}")))?;
            check(&report)?;
        }
        Isolation::None => tracing::warn!("no isolation: tools run on this machine as this user, as was asked for"),
    }
    let launcher = LauncherOptions {
        isolation: options.isolation,
        read_only_paths: options.read_only_paths.clone(),
        ..LauncherOptions::default()
    };
    Ok(Arc::new(LocalSandboxes::start(launcher, options.limits.clone()).await?))
}

fn check(report: &Report) -> Result<(), WorkerError> {
    if !report.ready() {
        return Err(WorkerError::Isolation(report.to_string()));
    }
    for step in report.missing() {
        tracing::warn!(step = step.name, state = ?step.state, "an optional isolation step is missing");
    }
    Ok(())
}

/// Sandboxes of this machine, from one launcher, which is started again if it dies.
pub struct LocalSandboxes {
    options: LauncherOptions,
    limits: Limits,
    launcher: Mutex<Launcher>,
}

impl LocalSandboxes {
    /// Starts the launcher. Tries no isolation step beforehand: a launch fails if one fails.
    pub async fn start(options: LauncherOptions, limits: Limits) -> Result<Self, SandboxError> {
        let launcher = Launcher::start(options.clone()).await?;
        tracing::info!(limits = launcher.limits_by(), isolation = ?options.isolation, "sandbox launcher started");
        Ok(Self {
            options,
            limits,
            launcher: Mutex::new(launcher),
        })
    }

    fn launcher(&self) -> Launcher {
        self.launcher.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn launch_in(&self, workspace: &Path, furnishing: &Furnishing) -> Result<Sandbox, SandboxError> {
        let furnishing = furnishing.clone();
        let options = SandboxOptions {
            limits: self.limits.clone(),
            image: furnishing.image,
            network: furnishing.network,
            env: furnishing.env,
            mounts: furnishing.mounts,
            outputs: furnishing.outputs,
            ca_pem: furnishing.ca_pem,
            devices: furnishing.devices,
            build: furnishing.build,
            ..SandboxOptions::new(workspace)
        };
        match self.launcher().launch(options.clone()).await {
            Err(SandboxError::LauncherGone(reason)) => {
                tracing::error!(reason, "the sandbox launcher has ended; starting it again");
                let launcher = Launcher::start(self.options.clone()).await?;
                *self.launcher.lock().unwrap_or_else(PoisonError::into_inner) = launcher.clone();
                launcher.launch(options).await
            }
            launched => launched,
        }
    }
}

impl Provider for LocalSandboxes {
    fn launch<'a>(
        &'a self,
        workspace: &'a Path,
        furnishing: &'a Furnishing,
    ) -> HandFuture<'a, Result<Arc<dyn Hand>, SandboxError>> {
        Box::pin(async move {
            let sandbox = self.launch_in(workspace, furnishing).await?;
            Ok(Arc::new(sandbox) as Arc<dyn Hand>)
        })
    }
}

impl Hand for Sandbox {
    fn call<'a>(
        &'a self,
        call: ToolCall,
        cancel: &'a CancellationToken,
    ) -> HandFuture<'a, Result<ToolOutput, SandboxError>> {
        Box::pin(async move {
            let mut call = pin!(Sandbox::call(self, call));
            tokio::select! {
                biased;
                output = &mut call => output,
                // The call may hold the way to the hand while it is being sent: both must go on.
                () = cancel.cancelled() => join(call, self.interrupt()).await.0,
            }
        })
    }

    fn take_fence(&self) -> Option<Fence> {
        Sandbox::take_fence(self)
    }

    fn has_ended(&self) -> bool {
        self.ended().now_or_never().is_some()
    }

    fn end(&self) -> HandFuture<'_, ()> {
        Box::pin(async {
            if let Err(error) = self.kill().await {
                tracing::error!(%error, "a sandbox does not end");
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Need, Step, StepState};

    #[test]
    fn a_missing_step_is_refused_by_name_unless_it_is_optional() {
        let report = |need| Report {
            steps: vec![Step {
                name: "seccomp".to_owned(),
                need,
                state: StepState::Missing {
                    reason: "no such system call".to_owned(),
                    mend: "a newer kernel".to_owned(),
                },
            }],
        };
        let error = check(&report(Need::Required)).unwrap_err().to_string();
        for part in ["seccomp", "no such system call", "a newer kernel", "--isolation=none"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(check(&report(Need::Optional)).is_ok());
    }
}
