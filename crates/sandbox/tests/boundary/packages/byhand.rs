//! By hand.
use outwork_image::Credentials;
use outwork_sandbox::worker::ImageSource;
use crate::World;
use super::{patient, with};

#[tokio::test(flavor = "multi_thread")]
async fn byhand() {
    let Ok(packages) = std::env::var("BYHAND") else { return };
    let packages = serde_json::from_str(&packages).unwrap();
    let mut world = World::with(Some(with(packages)), |boundary| {
        let way = std::sync::Arc::new(Way::default());
        boundary.resolver = Some(way.clone());
        boundary.connector = Some(way);
        if let Ok(image) = std::env::var("BYHAND_IMAGE") {
            boundary.image = Some(ImageSource { reference: image, allow_unpinned: false, credentials: Credentials::default() });
        }
    })
    .await;
    let begun = std::time::Instant::now();
    println!("{}", patient(&world, &std::env::var("BYHAND_RUN").unwrap()).await);
    println!("took {:?}", begun.elapsed());
    for record in world.records().await {
        println!("{:?} {:?} {:?} {:?} {:?} {:?}", record.kind, record.destination, record.http_method, record.http_path, record.decision, record.reason);
    }
}

#[derive(Default)]
struct Way(std::sync::Mutex<Vec<String>>);
use futures_util::future::BoxFuture;
use outwork_egress::dns::{Addresses, ResolveError, Resolver};
use outwork_egress::{Connect, Family};
use std::net::{IpAddr, SocketAddr};
impl Resolver for Way {
    fn addresses<'a>(&'a self, name: &'a str, family: Family) -> BoxFuture<'a, Result<Addresses, ResolveError>> {
        let mut names = self.0.lock().unwrap();
        let at = names.iter().position(|n| n == name).unwrap_or_else(|| { names.push(name.to_owned()); names.len() - 1 });
        let address: IpAddr = format!("93.184.216.{}", at + 1).parse().unwrap();
        let addresses = Addresses { addresses: [address].into_iter().filter(|a| family.holds(*a)).collect(), ttl: std::time::Duration::from_secs(60) };
        Box::pin(std::future::ready(Ok(addresses)))
    }
}
impl Connect for Way {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, std::io::Result<tokio::net::TcpStream>> {
        let IpAddr::V4(ip) = to.ip() else { panic!() };
        let name = self.0.lock().unwrap()[usize::from(ip.octets()[3]) - 1].clone();
        Box::pin(async move { tokio::net::TcpStream::connect((name.as_str(), to.port())).await })
    }
}
