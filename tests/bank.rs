//! The bank: each transfer brings a debit and a credit in the same epoch, and each query says in its own way what all
//! accounts hold together.
//!
//! Enters: random transfers, random stops. Leaves: nothing. Always holds: the total is 0 after every commit, in every
//! query.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use fuse::config::Settings;
use fuse::error::Error;
use fuse::session::Session;
use tokio::runtime::Runtime;

use crate::epochs::{Fedline, Feed, declare, temporary};

const EPOCHS: i64 = 60;
const ACCOUNTS: i64 = 12;

const VIEWS: &str = "
    CREATE VIEW taken AS SELECT account, sum(amount) AS amount FROM debits GROUP BY account;
    CREATE VIEW given AS SELECT account, sum(amount) AS amount FROM credits GROUP BY account;
    CREATE VIEW balances AS
        SELECT coalesce(g.account, t.account) AS account, coalesce(g.amount, 0) - coalesce(t.amount, 0) AS balance
        FROM given g FULL JOIN taken t ON g.account = t.account;";

/// Each gives one number.
const TOTALS: [&str; 5] = [
    "SELECT coalesce(sum(balance), 0) FROM balances",
    "SELECT coalesce(sum(amount), 0) FROM (SELECT amount FROM credits UNION ALL SELECT -amount FROM debits)",
    "SELECT coalesce(sum(c.amount - d.amount), 0) FROM credits c JOIN debits d ON c.transfer = d.transfer",
    "SELECT count(*) FROM (SELECT transfer, amount FROM credits EXCEPT SELECT transfer, amount FROM debits)",
    "SELECT coalesce(sum(n), 0) FROM (SELECT floor(balance) AS f, sum(balance) AS n FROM balances GROUP BY f)",
];

fn schema() -> SchemaRef {
    let field = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![field("transfer"), field("account"), field("amount")]))
}

fn feed() -> Vec<Vec<(String, RecordBatch)>> {
    let mut transfer = 0;
    let mut epoch = |at: i64| {
        let (mut ids, mut givers, mut takers, mut amounts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..at % 5 {
            transfer += 1;
            ids.push(transfer);
            givers.push(transfer * 7 % ACCOUNTS);
            takers.push((transfer * 5 + at) % ACCOUNTS);
            amounts.push(transfer * 37 % 101);
        }
        let side = |name: &str, accounts: Vec<i64>| {
            let columns = [ids.clone(), accounts, amounts.clone()];
            let columns = columns.map(|column| Arc::new(Int64Array::from(column)) as ArrayRef).to_vec();
            (name.to_owned(), RecordBatch::try_new(schema(), columns).expect("a batch"))
        };
        vec![side("debits", givers), side("credits", takers)]
    };
    (0..EPOCHS).map(&mut epoch).collect()
}

#[test]
fn no_commit_makes_or_loses_money() {
    let runtime = Runtime::new().expect("a runtime");
    let root = temporary();
    let feed: Feed = Arc::new(Mutex::new(feed()));
    let commits = Arc::new(Mutex::new(0));
    let mut line = Fedline::new(feed);
    let counted = Arc::clone(&commits);
    line.watcher = Some(Arc::new(move |place, epoch, shown| {
        let rows = shown.batch()?;
        let total = rows.column(0).as_primitive::<Int64Type>().value(0);
        *counted.lock().unwrap() += 1;
        if rows.num_rows() == 1 && total == 0 {
            return Ok(());
        }
        Err(Error::query(format!("epoch {epoch}: {}: {total} in {} rows", TOTALS[place], rows.num_rows())))
    }));
    let run = async |limit| {
        let session = Session::new(Settings::default())?;
        for table in ["debits", "credits"] {
            declare(&session, table, &schema(), &root.path().join(table)).await?;
        }
        session.execute_text(VIEWS).await?;
        for total in TOTALS {
            session.execute_text(&format!("SELECT CAST(x AS BIGINT) AS x FROM ({total}) AS t(x)")).await?;
        }
        line.run(&session, &root.path().join("state"), limit).await
    };
    for stop in [5, 20, 50] {
        runtime.block_on(run(Some(Duration::from_millis(stop)))).expect("runs until it is stopped");
    }
    assert!(runtime.block_on(run(None)).expect("runs to the end"));
    assert_eq!(*commits.lock().unwrap(), EPOCHS as usize * TOTALS.len(), "each query at each commit");
}
