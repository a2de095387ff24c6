//! Settings: four layers become one checked value.
//!
//! A flag comes before an environment variable, that before the settings file, that before the defaults, which
//! are themselves a file: `default.toml`, parsed at every start. Refused: a setting that does not exist (by
//! name, with file and line), a value that cannot work, an address beyond this machine without TLS unless that
//! was asked for by name, a TLS certificate without its key. Secrets are taken from the environment or from
//! files of their own, never from the settings file, and have no `Debug`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outwork_plane::{
    FederationOptions, FileOptions, IdentityOptions, LedgerOptions, Limits, McpOptions, PromptOptions, RetryPolicy,
    TunnelOptions,
};
use outwork_sandbox::DeviceName;
use secrecy::SecretString;

use crate::cli::plane::{LogArgs, LogFormat, PlaneArgs};
use crate::cli::worker::{Isolation, LimitArgs};

mod boundary;
mod files;
mod ledger;
mod mcp;
mod private;
mod settings;

pub(crate) use boundary::BoundaryConfig;
use private::EdgeFlags;
pub(crate) use settings::{DEFAULTS, Span};
use settings::{LimitSettings, LogSettings, ModelSettings, Settings};

/// Where environment variables come from: the process, or a table in tests. An empty one counts as not set.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's own environment.
pub(crate) fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What `serve` and `up` run with.
pub(crate) struct PlaneConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) data_dir: PathBuf,
    pub(crate) tls: Option<TlsPaths>,
    pub(crate) api_key: Option<SecretString>,
    pub(crate) model: Option<ModelConfig>,
    pub(crate) prompt: PromptOptions,
    pub(crate) retry: RetryPolicy,
    pub(crate) mcp: McpOptions,
    pub(crate) limits: Limits,
    pub(crate) master_key: Option<SecretString>,
    pub(crate) tunnels: TunnelOptions,
    pub(crate) federation: FederationOptions,
    pub(crate) identity: IdentityOptions,
    pub(crate) files: FileOptions,
    pub(crate) ledger: LedgerOptions,
    pub(crate) drain_timeout: Duration,
    pub(crate) log: LogConfig,
    pub(crate) worker: WorkerConfig,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsPaths {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// The default model provider.
#[derive(Clone)]
pub(crate) struct ModelConfig {
    pub(crate) base_url: String,
    pub(crate) api_key: SecretString,
    pub(crate) first_byte_timeout: Duration,
    pub(crate) idle_timeout: Duration,
}

impl ModelConfig {
    /// A provider with the default timeouts.
    pub(crate) fn new(base_url: String, api_key: SecretString) -> Result<Self> {
        let model = settings::read(None)?.model;
        Self::with(base_url, api_key, &model)
    }

    fn with(base_url: String, api_key: SecretString, model: &ModelSettings) -> Result<Self> {
        Ok(Self {
            base_url,
            api_key,
            first_byte_timeout: model.first_byte_timeout.context(missing("model.first_byte_timeout"))?.0,
            idle_timeout: model.idle_timeout.context(missing("model.idle_timeout"))?.0,
        })
    }
}

/// What a worker runs sandboxes with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorkerConfig {
    pub(crate) concurrency: usize,
    pub(crate) isolation: Isolation,
    pub(crate) memory_limit: u64,
    pub(crate) cpu_limit: Option<f64>,
    pub(crate) process_limit: u32,
    pub(crate) disk_limit: u64,
    pub(crate) max_idle: Duration,
    pub(crate) call_limit: Duration,
    pub(crate) output_limit: usize,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) total_output_limit: Option<u64>,
    pub(crate) devices: Vec<DeviceName>,
    pub(crate) boundary: BoundaryConfig,
}

/// How the log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogConfig {
    pub(crate) format: LogFormat,
    pub(crate) level: String,
}

/// Resolves the settings of `serve` and `up`.
///
/// `edge` says whether gateways of tunnels are taken even if nothing says where: on the port after that of the API.
pub(crate) fn plane(
    args: &PlaneArgs,
    limits: &LimitArgs,
    edge: bool,
    environment: Environment<'_>,
) -> Result<PlaneConfig> {
    let layers = Layers::read(args.config.as_deref())?;
    let Settings { plane, model, .. } = &layers.settings;
    let listen = args.listen.or(plane.listen).context(missing("plane.listen"))?;
    let tls = match (
        args.tls_cert.clone().or(plane.tls_cert.clone()),
        args.tls_key.clone().or(plane.tls_key.clone()),
    ) {
        (Some(cert), Some(key)) => Some(TlsPaths { cert, key }),
        (None, None) => None,
        (Some(cert), None) => bail!(
            "{} is a certificate without its key: give --tls-key too",
            cert.display()
        ),
        (None, Some(key)) => bail!(
            "{} is a key without its certificate: give --tls-cert too",
            key.display()
        ),
    };
    let insecure = args.insecure_http || plane.insecure_http.unwrap_or(false);
    if !listen.ip().is_loopback() && tls.is_none() && !insecure {
        bail!(
            "{listen} can be reached from other machines, and keys would cross the network in clear text: \
             give --tls-cert and --tls-key, or --insecure-http if something in front of it ends TLS"
        );
    }
    let data_dir = match args.data_dir.clone().or(plane.data_dir.clone()) {
        Some(folder) => folder,
        None => default_data_dir(environment)?,
    };
    Ok(PlaneConfig {
        listen,
        data_dir,
        tls,
        api_key: environment("OUTWORK_API_KEY").map(SecretString::from),
        model: model_provider(model, environment)?,
        prompt: prompt(model)?,
        retry: retry(model)?,
        mcp: layers.settings.mcp.resolve()?,
        limits: request_limits(&layers.settings.limits)?,
        master_key: master_key(environment),
        tunnels: private::tunnels(
            EdgeFlags {
                listen: args.tunnel_listen,
                public_address: args.tunnel_address.clone(),
                otherwise: edge.then(|| beside(listen)),
            },
            &layers.settings.tunnel,
        )?,
        federation: private::federation(&layers.settings.federation)?,
        identity: private::identity(
            args.public_url.as_deref().or(plane.public_url.as_deref()),
            &layers.settings.identity,
        )?,
        files: files::resolve(&layers.settings.files, &layers.settings.blobs)?,
        ledger: ledger::resolve(&layers.settings.ledger)?,
        drain_timeout: args
            .drain_timeout
            .or(plane.drain_timeout)
            .context(missing("plane.drain_timeout"))?
            .0,
        log: log(&args.log, &layers.settings.log)?,
        worker: layers.worker(limits, layers.settings.up.concurrency)?,
    })
}

/// The port after that of an address; a free one if the address takes a free one.
fn beside(listen: SocketAddr) -> SocketAddr {
    let port = match listen.port() {
        0 | u16::MAX => 0,
        port => port + 1,
    };
    SocketAddr::new(listen.ip(), port)
}

/// Resolves the settings of `worker`.
pub(crate) fn worker(config: Option<&Path>, limits: &LimitArgs, logs: &LogArgs) -> Result<(WorkerConfig, LogConfig)> {
    let layers = Layers::read(config)?;
    Ok((
        layers.worker(limits, layers.settings.worker.concurrency)?,
        log(logs, &layers.settings.log)?,
    ))
}

/// Where a plane keeps everything unless it is told: the platform's folder for data.
pub(crate) fn default_data_dir(environment: Environment<'_>) -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/outwork"));
    }
    let xdg = environment("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = environment("HOME").map(|home| Path::new(&home).join(".local/share"));
    xdg.or(home)
        .map(|base| base.join("outwork"))
        .context("there is no HOME to keep data in: give --data-dir")
}

/// What secrets of vaults are sealed under, if it is given from outside.
pub(crate) fn master_key(environment: Environment<'_>) -> Option<SecretString> {
    environment("OUTWORK_MASTER_KEY").map(SecretString::from)
}

/// The data folder of a server with these flags, for what is done to it while no server runs.
pub(crate) fn data_dir(given: Option<PathBuf>, config: Option<&Path>, environment: Environment<'_>) -> Result<PathBuf> {
    match given.or(settings::read(config)?.plane.data_dir) {
        Some(folder) => Ok(folder),
        None => default_data_dir(environment),
    }
}

/// The folder of the ledger of a server with these flags.
pub(crate) fn ledger_dir(
    given: Option<PathBuf>,
    config: Option<&Path>,
    environment: Environment<'_>,
) -> Result<PathBuf> {
    match ledger::resolve(&settings::read(config)?.ledger)?.dir {
        Some(folder) => Ok(folder),
        None => Ok(data_dir(given, config, environment)?.join("ledger")),
    }
}

fn model_provider(model: &ModelSettings, environment: Environment<'_>) -> Result<Option<ModelConfig>> {
    let base_url = environment("OUTWORK_MODEL_BASE_URL").or(model.base_url.clone());
    let api_key = match (environment("OUTWORK_MODEL_API_KEY"), &model.api_key_file) {
        (Some(key), _) => Some(SecretString::from(key)),
        (None, Some(path)) => Some(secret_file(path)?),
        (None, None) => None,
    };
    match (base_url, api_key) {
        (Some(base_url), Some(api_key)) => {
            let base_url = check_url(&base_url).context("the model provider's address (OUTWORK_MODEL_BASE_URL)")?;
            Ok(Some(ModelConfig::with(base_url, api_key, model)?))
        }
        (None, None) => Ok(None),
        (Some(_), None) => bail!("a model provider is set, but not its key: set OUTWORK_MODEL_API_KEY"),
        (None, Some(_)) => bail!(
            "the key of a model provider is set, but not its address: \
             set OUTWORK_MODEL_BASE_URL, for example to https://api.anthropic.com"
        ),
    }
}

fn prompt(model: &ModelSettings) -> Result<PromptOptions> {
    let max_tokens = model.max_tokens.context(missing("model.max_tokens"))?;
    if max_tokens == 0 || model.max_turn_requests == Some(0) {
        bail!("model.max_tokens and model.max_turn_requests must be at least 1");
    }
    Ok(PromptOptions {
        max_tokens,
        adaptive_thinking: model
            .adaptive_thinking
            .clone()
            .context(missing("model.adaptive_thinking"))?,
        cache: model.cache.context(missing("model.cache"))?,
        max_turn_requests: model.max_turn_requests.context(missing("model.max_turn_requests"))?,
    })
}

fn retry(model: &ModelSettings) -> Result<RetryPolicy> {
    let max_attempts = model.max_attempts.context(missing("model.max_attempts"))?;
    if max_attempts == 0 {
        bail!("model.max_attempts must be at least 1");
    }
    Ok(RetryPolicy {
        max_attempts,
        max_nonsense: max_attempts.min(RetryPolicy::default().max_nonsense),
        base: model.retry_base.context(missing("model.retry_base"))?.0,
        cap: model.retry_cap.context(missing("model.retry_cap"))?.0,
    })
}

fn request_limits(file: &LimitSettings) -> Result<Limits> {
    let limits = Limits {
        max_body_bytes: usize::try_from(file.body.context(missing("limits.body"))?.as_u64())
            .context("limits.body is larger than this machine can hold")?,
        max_json_depth: file.json_depth.context(missing("limits.json_depth"))?,
        header_timeout: file.header_timeout.context(missing("limits.header_timeout"))?.0,
        body_timeout: file.body_timeout.context(missing("limits.body_timeout"))?.0,
        max_connections: file.connections.context(missing("limits.connections"))?,
        stream_backlog: file.stream_backlog.context(missing("limits.stream_backlog"))?,
        stream_ping: file.stream_ping.context(missing("limits.stream_ping"))?.0,
    };
    if limits.max_connections == 0 || limits.stream_backlog == 0 || limits.max_json_depth == 0 {
        bail!("limits.connections, limits.stream_backlog and limits.json_depth must be at least 1");
    }
    if limits.max_json_depth > 120 {
        bail!("limits.json_depth must be at most 120");
    }
    Ok(limits)
}

/// A secret that a file holds, without the white space around it.
pub(crate) fn secret_file(path: &Path) -> Result<SecretString> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("could not read the key in {}", path.display()))?;
    if text.trim().is_empty() {
        bail!("{} is empty; it should hold a key", path.display());
    }
    Ok(SecretString::from(text.trim()))
}

/// An address of a server, without the slash at its end.
pub(crate) fn check_url(text: &str) -> Result<String> {
    let url = reqwest::Url::parse(text).with_context(|| format!("`{text}` is not a URL such as https://host:port"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        bail!("`{text}` is not an http or https address");
    }
    if !url.username().is_empty() || url.password().is_some() {
        bail!("an address must not hold a user name or a password");
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn log(args: &LogArgs, file: &LogSettings) -> Result<LogConfig> {
    Ok(LogConfig {
        format: args.log_format.or(file.format).context(missing("log.format"))?,
        level: args
            .log_level
            .clone()
            .or(file.level.clone())
            .context(missing("log.level"))?,
    })
}

fn missing(name: &str) -> String {
    format!("`{name}` has no default; this is a defect of default.toml")
}

/// The settings file over the defaults.
struct Layers {
    settings: Settings,
}

impl Layers {
    fn read(path: Option<&Path>) -> Result<Self> {
        Ok(Self {
            settings: settings::read(path)?,
        })
    }

    fn worker(&self, args: &LimitArgs, concurrency: Option<usize>) -> Result<WorkerConfig> {
        let file = &self.settings.worker;
        let config = WorkerConfig {
            concurrency: args.concurrency.or(concurrency).context(missing("concurrency"))?,
            isolation: args.isolation.or(file.isolation).context(missing("worker.isolation"))?,
            memory_limit: args
                .memory_limit
                .or(file.memory_limit)
                .context(missing("worker.memory_limit"))?
                .as_u64(),
            cpu_limit: args.cpu_limit.or(file.cpu_limit),
            process_limit: args
                .process_limit
                .or(file.process_limit)
                .context(missing("worker.process_limit"))?,
            disk_limit: args
                .disk_limit
                .or(file.disk_limit)
                .context(missing("worker.disk_limit"))?
                .as_u64(),
            max_idle: args.max_idle.or(file.max_idle).context(missing("worker.max_idle"))?.0,
            call_limit: args
                .call_limit
                .or(file.call_limit)
                .context(missing("worker.call_limit"))?
                .0,
            output_limit: args
                .output_limit
                .or(file.output_limit)
                .context(missing("worker.output_limit"))?
                .as_u64() as usize,
            time_limit: args.time_limit.or(file.time_limit).map(|span| span.0),
            total_output_limit: args
                .total_output_limit
                .or(file.total_output_limit)
                .map(|size| size.as_u64()),
            devices: devices(match args.devices.is_empty() {
                true => &file.devices,
                false => &args.devices,
            })?,
            boundary: BoundaryConfig::layer(&args.boundary, file),
        };
        if config.concurrency == 0 {
            bail!("a worker with concurrency 0 would never run anything: give at least 1");
        }
        if let Some(cores) = config.cpu_limit
            && !(0.01..=4096.0).contains(&cores)
        {
            bail!("the CPU limit is a number of cores, 0.01 to 4096, not {cores}");
        }
        if config.memory_limit < 16 << 20 {
            bail!("the memory limit must be at least 16MiB; a sandbox cannot start with less");
        }
        if config.process_limit < 8 {
            bail!("the process limit must be at least 8; a sandbox cannot start with less");
        }
        if config.call_limit.is_zero() || config.time_limit.is_some_and(|limit| limit.is_zero()) {
            bail!(
                "a call or a sandbox that may take no time would never run anything: give a length of time such as 150s"
            );
        }
        if !(1 << 10..=4 << 20).contains(&config.output_limit) {
            bail!("the output limit is between 1KiB and 4MiB; files are not bounded by it");
        }
        Ok(config)
    }
}

fn devices(names: &[String]) -> Result<Vec<DeviceName>> {
    let parsed = names.iter().map(|name| DeviceName::parse(name));
    Ok(parsed.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use secrecy::ExposeSecret;

    use super::settings::parse;
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        plane: PlaneArgs,
        #[command(flatten)]
        limits: LimitArgs,
    }

    fn resolve(flags: &[&str], environment: Environment<'_>) -> Result<PlaneConfig> {
        let line = Line::parse_from(["outwork"].iter().chain(flags));
        plane(&line.plane, &line.limits, false, environment)
    }

    fn home(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/somebody".to_owned())
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outwork.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path.display().to_string())
    }

    #[test]
    fn the_default_file_gives_every_setting() {
        let config = resolve(&[], &home).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8400");
        assert_eq!(config.drain_timeout, Duration::from_secs(30));
        assert_eq!(
            config.log,
            LogConfig {
                format: LogFormat::Text,
                level: "info".into()
            }
        );
        assert_eq!(config.worker.max_idle, Duration::from_secs(60));
        assert_eq!(config.worker.memory_limit, 4 << 30);
        assert_eq!(config.worker.cpu_limit, None);
        assert_eq!(config.worker.call_limit, outwork_sandbox::ToolCall::DEFAULT_TIMEOUT);
        assert_eq!(
            config.worker.output_limit,
            outwork_sandbox::Limits::default().max_output_bytes
        );
        assert_eq!(config.worker.devices, []);
        assert!(config.model.is_none() && config.tls.is_none() && config.api_key.is_none());
    }

    #[test]
    fn limits_that_cannot_be_kept_are_refused() {
        for (flags, says) in [
            (["--call-limit", "0s"], "no time"),
            (["--time-limit", "0s"], "no time"),
            (["--output-limit", "10B"], "between 1KiB and 4MiB"),
            (["--output-limit", "1GiB"], "between 1KiB and 4MiB"),
            (["--device", "sda"], "\"sda\" is not the name of a graphics device"),
            (["--process-limit", "1"], "at least 8"),
        ] {
            let error = format!("{:#}", resolve(&flags, &home).err().unwrap());
            assert!(error.contains(says), "{error}");
        }
        let flags = ["--device", "nvidia0", "--device", "/dev/dri/renderD128"];
        let devices = resolve(&flags, &home).unwrap().worker.devices;
        let names: Vec<_> = devices.iter().map(DeviceName::as_str).collect();
        assert_eq!(names, ["nvidia0", "dri/renderD128"]);
    }

    #[test]
    fn what_the_default_file_shows_as_a_comment_is_a_setting_too() {
        let shown = DEFAULTS.lines().filter(|line| {
            line.strip_prefix("# ")
                .and_then(|rest| rest.split_once(" = "))
                .is_some_and(|(name, _)| !name.contains(' '))
        });
        assert_eq!(shown.clone().count(), 25);
        let text = DEFAULTS
            .lines()
            .map(|line| {
                if shown.clone().any(|s| s == line) {
                    &line[2..]
                } else {
                    line
                }
            })
            .collect::<Vec<_>>()
            .join("\n");
        let settings: Settings = parse(&text, "all").unwrap();
        assert!(settings.plane.data_dir.is_some() && settings.model.api_key_file.is_some());
    }

    #[test]
    fn a_flag_comes_before_the_file_and_the_file_before_the_default() {
        assert_eq!(
            worker(None, &LimitArgs::default(), &LogArgs::default())
                .unwrap()
                .0
                .concurrency,
            1
        );
        let (_folder, path) =
            file("[plane]\nlisten = \"127.0.0.1:1\"\ndrain_timeout = \"5s\"\n[up]\nconcurrency = 9\n");
        let config = resolve(&["--config", &path], &home).unwrap();
        assert_eq!(config.listen.port(), 1);
        assert_eq!((config.drain_timeout.as_secs(), config.worker.concurrency), (5, 9));
        assert_eq!(config.log.level, "info");
        let config = resolve(
            &["--config", &path, "--listen", "127.0.0.1:2", "--concurrency", "3"],
            &home,
        )
        .unwrap();
        assert_eq!((config.listen.port(), config.worker.concurrency), (2, 3));
    }

    #[test]
    fn the_environment_comes_before_the_file() {
        let (_folder, path) = file("[model]\nbase_url = \"http://file:1\"\n");
        let environment = |name: &str| match name {
            "OUTWORK_MODEL_BASE_URL" => Some("http://environment:2/".to_owned()),
            "OUTWORK_MODEL_API_KEY" => Some("secret".to_owned()),
            other => home(other),
        };
        let model = resolve(&["--config", &path], &environment).unwrap().model.unwrap();
        assert_eq!(model.base_url, "http://environment:2");
        assert_eq!(model.api_key.expose_secret(), "secret");
    }

    #[test]
    fn unknown_and_wrong_settings_are_refused_with_their_line() {
        for (text, line, name) in [
            ("[plane]\n\nlisten_on = \"127.0.0.1:1\"\n", "line 3", "listen_on"),
            ("[plan]\n", "line 1", "plan"),
            ("[model]\napi_key = \"sk\"\n", "line 2", "api_key"),
            ("[worker]\n# x\nmax_idle = \"soon\"\n", "line 3", "`soon`"),
            ("[plane]\nlisten = \"localhost\"\n", "line 2", "address"),
            ("[worker]\nisolation = \"some\"\n", "line 2", "some"),
        ] {
            let (_folder, path) = file(text);
            let error = format!("{:#}", resolve(&["--config", &path], &home).err().unwrap());
            assert!(
                error.contains(&path) && error.contains(line) && error.contains(name),
                "{error}"
            );
        }
    }

    #[test]
    fn an_open_address_without_tls_must_be_asked_for_by_name() {
        let error = resolve(&["--listen", "0.0.0.0:0"], &home).err().unwrap().to_string();
        assert!(error.contains("--insecure-http"), "{error}");
        assert!(resolve(&["--listen", "0.0.0.0:0", "--insecure-http"], &home).is_ok());
        assert!(resolve(&["--listen", "[::]:0", "--tls-cert", "a", "--tls-key", "b"], &home).is_ok());
        assert!(resolve(&["--tls-cert", "a"], &home).is_err());
        assert!(resolve(&["--listen", "[::1]:0"], &home).is_ok());
    }

    #[test]
    fn half_a_model_provider_is_refused() {
        let only =
            |wanted: &'static str| move |name: &str| (name == wanted).then(|| "http://a".to_owned()).or(home(name));
        assert!(resolve(&[], &only("OUTWORK_MODEL_BASE_URL")).is_err());
        assert!(resolve(&[], &only("OUTWORK_MODEL_API_KEY")).is_err());
    }

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        assert_eq!("1h30m".parse::<Span>().unwrap().0, Duration::from_secs(5400));
        assert_eq!("500ms".parse::<Span>().unwrap().0, Duration::from_millis(500));
        for wrong in ["", "60", "-5s", "soon"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
    }
}
