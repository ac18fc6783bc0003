use super::*;
use crate::backend::aws::fixture::alpha;
use crate::backend::aws::inbox::shop;
use crate::backend::aws::item::bytes;
use crate::policy::Start;

/// A consumer whose state has so many entries, taken over for the first time, and nothing of it is on its way.
async fn taken_over(entries: usize) -> (crate::backend::Backend, std::sync::Arc<Store>) {
    let (backend, store) = shop().await;
    backend.consumers.introduce(&alpha(), Start::Now).await.unwrap();
    let change = Change::of("SET lay = :two, lyb = :one, lyn = :one, lym = :max");
    let change = change.value(":two", number(2)).value(":one", number(1)).value(":max", number(1 << 20));
    store.table.update(&Key::consumer(&alpha()), change).await.unwrap();
    let entry = |entry| Item::at(&Key::entry(&alpha(), 0, &format!("{entry:05}"))).with("v", bytes(b"value"));
    store.table.put_all((0..entries).map(entry).collect()).await.unwrap();
    (backend, store)
}

async fn known(store: &Store) -> Known {
    store.known_as(&alpha()).await.unwrap().unwrap()
}

async fn in_generation(store: &Store, generation: i64) -> Vec<(String, Vec<u8>)> {
    let items = page(store, entries_partition(&alpha(), generation), "", None, 10_000).await.unwrap().0;
    let read = |item: &Item| (item.text("sk").unwrap().to_owned(), item.blob("v").unwrap().to_vec());
    items.iter().map(read).collect()
}

#[tokio::test]
async fn of_two_that_copy_the_first_one_does_until_it_says_so_no_more() {
    let (_backend, store) = taken_over(250).await;
    let before = known(&store).await;
    let mut slow = Copy::claim(&store, &before, 1).await.unwrap().expect("it is free");
    assert!(Copy::claim(&store, &before, 1).await.unwrap().is_none(), "by what was known before");
    assert!(Copy::claim(&store, &known(&store).await, 1).await.unwrap().is_none(), "it is another's");
    assert_eq!((known(&store).await.copying, known(&store).await.past), (Some(slow.generation), vec![]));

    let over = Change::of("SET cpt = :past").value(":past", number(1));
    store.table.update(&Key::consumer(&alpha()), over).await.unwrap();
    let mut next = Copy::claim(&store, &known(&store).await, 1).await.unwrap().expect("it is free again");
    assert_ne!(slow.generation, next.generation);
    assert_eq!(known(&store).await.past, [slow.generation], "what the first one wrote is to be cleared");
    let from = || entries_partition(&alpha(), 0);
    assert!(!slow.partition(from(), &entries_partition(&alpha(), slow.generation)).await.unwrap());
    assert!(next.partition(from(), &entries_partition(&alpha(), next.generation)).await.unwrap());
    assert!(in_generation(&store, slow.generation).await.is_empty());
    assert_eq!(in_generation(&store, next.generation).await, in_generation(&store, 0).await);
    slow.said = Instant::now() - 2 * RENEW_EVERY;
    next.said = slow.said;
    assert!(!slow.goes_on().await.unwrap() && next.goes_on().await.unwrap());
}

#[tokio::test]
async fn nothing_is_copied_for_a_take_over_that_is_over() {
    let (_backend, store) = taken_over(1).await;
    assert!(Copy::claim(&store, &known(&store).await, 2).await.unwrap().is_none(), "there is none of that number");
    let over = Change::of("SET lyr = :one").value(":one", number(1));
    store.table.update(&Key::consumer(&alpha()), over).await.unwrap();
    assert!(Copy::claim(&store, &known(&store).await, 1).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_put_off_goes_with_the_copy_beside_which_it_stands() {
    let (_backend, store) = taken_over(1).await;
    let lane = LaneKey::known("s#tea");
    let beside = |copy: i64| put_off_item(&alpha(), COPIES + copy, 7, &lane, 1);
    store.table.put_all((1..=4).map(beside).collect()).await.unwrap();
    let kept =
        Kept { generation: 0, put_off: COPIES + 2, layout: 1, version: None, since_ms: 1, position: 1, way: None };
    let known = Known { kept: Some(kept), copying: Some(COPIES + 3), copies: 3, ..known(&store).await };
    store.clear_put_off(&known).await.unwrap();
    let mut left = Vec::new();
    for copy in 1..=4 {
        left.push(put_off_items(&store, &alpha(), COPIES + copy, 9).await.unwrap().len());
    }
    assert_eq!(left, [0, 1, 1, 1], "the last one was not known of");
}
