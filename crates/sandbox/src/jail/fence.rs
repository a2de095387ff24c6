//! Landlock, over the mounts: what may be read, run, and written by path, and no signals or abstract sockets out.

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};

/// The lowest version that says all that is needed of files: version 3 is the first that can forbid truncating.
pub(crate) const NEEDED_ABI: u32 = 3;

/// Restricts this process and everything it starts, by paths of the sandbox's own root. `also` is a folder that may be
/// written besides the usual ones.
pub(crate) fn restrict(also: Option<&str>) -> Result<(), String> {
    build(also)
        .map_err(|error| error.to_string())
        .and_then(|status| match status {
            RulesetStatus::NotEnforced => Err("the kernel does not enforce Landlock".to_owned()),
            RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
        })
}

fn build(also: Option<&str>) -> Result<RulesetStatus, Box<dyn std::error::Error>> {
    let needed = ABI::V3;
    // Without device nodes of its own making a workspace has no device ioctl to forbid; the rest of later versions
    // is taken where the kernel has it.
    let everything = AccessFs::from_all(needed);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(everything)?
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .set_compatibility(CompatLevel::HardRequirement);
    let devices = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock;
    let write = everything & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let device = (everything & AccessFs::from_file(needed)) & !devices;
    rules = rule(rules, "/", AccessFs::from_read(needed))?;
    rules = rule(rules, "/workspace", write)?;
    rules = rule(rules, "/tmp", write)?;
    rules = rule(rules, "/dev", device)?;
    if let Some(also) = also {
        rules = rule(rules, also, write)?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

fn rule(
    rules: landlock::RulesetCreated,
    path: &str,
    access: landlock::BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, Box<dyn std::error::Error>> {
    let path = PathFd::new(path)?;
    Ok(rules
        .add_rule(PathBeneath::new(path, access))
        .map_err(|error: RulesetError| error)?)
}
