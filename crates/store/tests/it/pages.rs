//! Pages: whatever the rows and the limit, walking a list forwards or backwards meets each row once, in order.

use outwork_store::{Order, Page, SessionFilter, SessionRow, StoreError};
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{AgentId, SessionId};
use proptest::prelude::*;

use crate::support::{Bed, at, bed, block_on, first, from, new_session};

async fn fill(bed: &Bed, seconds: &[i64]) -> Vec<(i64, SessionId)> {
    let environment = bed.environment(EnvironmentKind::SelfHosted).await;
    let mut rows = Vec::new();
    for s in seconds {
        let new = new_session(&environment, &AgentId::fresh(), at(*s), Vec::new(), None);
        let row = bed.store.create_session(&bed.ws, new).await.unwrap();
        rows.push((*s, row.id));
    }
    rows.sort();
    rows
}

fn filter(order: Order) -> SessionFilter {
    SessionFilter {
        order,
        ..SessionFilter::default()
    }
}

async fn page(bed: &Bed, order: Order, limit: usize, cursor: Option<&str>) -> Page<SessionRow> {
    let request = match cursor {
        Some(cursor) => from(limit, cursor),
        None => first(limit),
    };
    bed.store.list_sessions(&bed.ws, filter(order), request).await.unwrap()
}

fn ids(page: &Page<SessionRow>) -> Vec<SessionId> {
    page.rows.iter().map(|r| r.id.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn walks_meet_every_row_once_and_in_order(
        seconds in prop::collection::vec(0i64..6, 0..24),
        limit in 1usize..8,
        asc: bool,
    ) {
        block_on(async {
            let bed = bed();
            let order = if asc { Order::Asc } else { Order::Desc };
            let mut expected: Vec<SessionId> = fill(&bed, &seconds).await.into_iter().map(|(_, id)| id).collect();
            if !asc {
                expected.reverse();
            }
            let mut forward = Vec::new();
            let mut pages = Vec::new();
            let mut here = page(&bed, order, limit, None).await;
            assert!(here.prev.is_none(), "nothing lies before the first page");
            loop {
                assert!(here.rows.len() <= limit);
                assert!(here.next.is_none() || here.rows.len() == limit);
                forward.extend(ids(&here));
                pages.push(ids(&here));
                let Some(next) = here.next.clone() else { break };
                here = page(&bed, order, limit, Some(&next)).await;
                assert!(here.prev.is_some(), "we came from somewhere");
                assert!(!here.rows.is_empty(), "a next page has rows");
            }
            assert_eq!(forward, expected);

            // Back again: the same pages, in reverse.
            while let Some(prev) = here.prev.clone() {
                pages.pop();
                here = page(&bed, order, limit, Some(&prev)).await;
                assert!(here.next.is_some());
                assert_eq!(Some(&ids(&here)), pages.last());
            }
            assert_eq!(pages.len(), 1);
        });
    }

    #[test]
    fn rows_that_come_later_do_not_shift_a_walk(
        seconds in prop::collection::vec(0i64..50, 1..16),
        limit in 1usize..4,
    ) {
        block_on(async {
            let bed = bed();
            let mut expected: Vec<SessionId> = fill(&bed, &seconds).await.into_iter().map(|(_, id)| id).collect();
            expected.reverse();
            let mut seen = Vec::new();
            let mut here = page(&bed, Order::Desc, limit, None).await;
            let mut later = 100;
            loop {
                seen.extend(ids(&here));
                // Newer rows than any: they lie before the walk.
                fill(&bed, &[later]).await;
                later += 1;
                let Some(next) = here.next.clone() else { break };
                here = page(&bed, Order::Desc, limit, Some(&next)).await;
            }
            assert_eq!(seen, expected);
        });
    }
}

#[tokio::test]
async fn a_cursor_belongs_to_its_list_filters_order_and_workspace() {
    let bed = bed();
    fill(&bed, &[1, 2, 3]).await;
    let next = page(&bed, Order::Desc, 1, None).await.next.unwrap();
    let refused = async |ws: &outwork_wire::id::WorkspaceId, filter: SessionFilter, cursor: &str| {
        let answer = bed.store.list_sessions(ws, filter, from(1, cursor)).await;
        assert!(matches!(answer, Err(StoreError::InvalidCursor)), "{cursor}");
    };
    refused(&bed.ws, filter(Order::Asc), &next).await;
    let archived = SessionFilter {
        include_archived: true,
        ..SessionFilter::default()
    };
    refused(&bed.ws, archived, &next).await;
    let other = bed.store.create_workspace("other", at(0)).await.unwrap().id;
    refused(&other, filter(Order::Desc), &next).await;
    for garbage in ["", "x", "AAAA", &format!("{next}A"), &next[1..], "💥"] {
        refused(&bed.ws, filter(Order::Desc), garbage).await;
    }
    let agents = bed.store.list_agents(&bed.ws, Default::default(), from(1, &next)).await;
    assert!(matches!(agents, Err(StoreError::InvalidCursor)));
    // Another limit is fine.
    let rest = bed
        .store
        .list_sessions(&bed.ws, filter(Order::Desc), from(10, &next))
        .await
        .unwrap();
    assert_eq!(rest.rows.len(), 2);
}
