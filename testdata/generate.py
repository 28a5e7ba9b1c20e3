#!/usr/bin/env python3
"""Writes the sample data of the tour: half a year of a bike share scheme.

The town, its riders and its weather are invented; the shape of the data
follows what bike share schemes publish. Same seed, same bytes (given the same
version of pyarrow): every file draws from its own random stream, so changing
one leaves the others as they are. See README.md for the columns.

    pip install pyarrow==26.0.1
    python3 testdata/generate.py
"""

import csv
import gzip
import io
import json
import math
import random
import shutil
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
SEED = "bike share 2024"
FIRST_DAY = date(2024, 1, 1)
LAST_DAY = date(2024, 6, 30)
FIRST_TRIP_ID = 1_000_001
WORKSHOP = 999  # bikes are brought here; stations.csv does not know it
SENSOR_START = datetime(2024, 6, 28, 6)  # a Friday morning
SENSOR_ROUNDS = 25  # one reading per station every 15 minutes


def stream(name: str) -> random.Random:
    """A random stream of its own for each file."""
    return random.Random(f"{SEED}/{name}")


# --- stations ---------------------------------------------------------------

# One block per district: its name, where its middle lies (km east and north of
# the town hall), then `kind name` for each station. The kind says who goes
# there when, and how much rain keeps them away.
DISTRICTS = """
Old Town 0.0 0.0
  shop    Town Hall
  shop    Marché aux Fleurs
  shop    Butter Market, North Side
  leisure "The Lantern" Theatre
  work    St. Olav's Church
  home    Coopers' Lane
  transit Tram Stop Königsplatz
  leisure Old Bridge, East Bank
Harbour 1.4 -0.9
  transit Ferry Terminal
  leisure Lighthouse Steps
  shop    Quay 7, Fish Market
  work    Rope Works
  leisure Søndre Mole
  home    Skippers' Row
  work    Customs House
  shop    Café "Zum Anker"
Central Station -0.9 0.8
  transit Central Station, Main Hall
  transit Central Station, South Exit
  transit Bus Terminal
  work    Post Office
  work    Tower Nine
  shop    Arcade
  home    Bahnhofstraße 12
  work    Ministry of Tides
University -1.9 -0.6
  campus  Main Library
  campus  Faculty of Engineering
  campus  Mensa
  home    Halls of Residence "Ørsted"
  campus  Physics Garden
  campus  Medical School
  shop    Bookshop, Rue de l'Étude
  leisure Botanical Garden
Dunes 0.6 2.6
  leisure North Beach
  leisure Dune Path
  leisure Beach Café
  leisure Kite Meadow
  leisure Camping, Gate 2
  home    Seagull Close
  transit Dunes Tram Loop
  leisure Naturum
Lindenhof -2.6 1.6
  home    Lindenhof Square
  home    Allée des Tilleuls
  home    Garden Colony "Morgenrot"
  shop    Lindenhof Market
  home    Schoolyard
  home    Water Tower
  home    Kastanjevej
  transit Lindenhof S-Bahn
Northgate -0.4 1.9
  home    North Gate
  home    Brewery Yard
  shop    Saturday Market
  home    Kiln Street
  work    Printing House
  home    Fuglsang
  home    Canal Lock 3
  leisure Velodrome
Westquay -1.2 -2.1
  work    Data Wharf
  work    Crane 14
  work    Turbine Hall
  work    Container Yard, Office
  transit Westquay Ferry
  home    Loft Houses
  shop    Street Food Hall
  work    Test Laboratory
Southmoor 0.8 -2.6
  home    Southmoor Green
  home    Peat Lane
  home    Heideweg
  shop    Southmoor Centre
  home    Windmill
  transit Southmoor Halt
  work    Hospital
  home    Allotments, South
Park Ring 1.7 1.0
  leisure Rose Garden
  leisure Japanese Garden (日本庭園)
  leisure Boating Lake
  leisure Zoo
  home    Park View
  work    Observatory
  leisure Open-Air Stage
  home    Ringstraße
"""

# The town is invented and so is its place: on a sandbank in the North Sea.
TOWN_LAT, TOWN_LON = 54.9000, 2.6000
KM_PER_DEGREE = 111.2


@dataclass
class Station:
    """A station as the generator sees it; what it publishes may have gaps."""

    station_id: int
    name: str
    district: str
    kind: str
    docks: int
    east_km: float
    north_km: float
    opened: date
    pull: float  # how popular it is among its kind


def stations() -> list[Station]:
    """All stations, 100 ids for each district."""
    rng = stream("stations")
    found: list[Station] = []
    district, middle, number = "", (0.0, 0.0), 0
    for line in DISTRICTS.strip().splitlines():
        if not line.startswith(" "):
            district, east, north = line.rsplit(" ", 2)
            middle = (float(east), float(north))
            number = (number // 100 + 1) * 100
            continue
        number += 1
        kind, name = line.split(maxsplit=1)
        found.append(
            Station(
                station_id=number,
                name=name,
                district=district,
                kind=kind,
                docks=rng.choice([12, 15, 16, 18, 20, 20, 24, 24, 30, 36]),
                east_km=middle[0] + rng.gauss(0, 0.35),
                north_km=middle[1] + rng.gauss(0, 0.35),
                opened=date(2018, 4, 1) + timedelta(days=rng.randrange(1900)),
                pull=rng.lognormvariate(0, 0.45),
            )
        )
    by_name = {s.name: s for s in found}
    by_name["Test Laboratory"].opened = date(2024, 3, 1)
    by_name["Allotments, South"].opened = date(2024, 5, 6)
    by_name["Observatory"].opened = date.max  # planned, not there yet
    mobile = Station(1101, "Festival Bus (mobile)", "", "leisure", 10, 0.4, 0.6, date(2022, 6, 1), 0.5)
    return [*found, mobile]


def write_stations(path: Path, all_stations: list[Station]) -> None:
    """Gaps: a planned station, a station on wheels, opening days nobody knows."""
    forgotten = stream("opened").sample([s.station_id for s in all_stations[:60]], 4)
    rows = []
    for s in all_stations:
        planned, mobile = s.opened == date.max, not s.district
        lat = TOWN_LAT + s.north_km / KM_PER_DEGREE
        lon = TOWN_LON + s.east_km / (KM_PER_DEGREE * math.cos(math.radians(TOWN_LAT)))
        rows.append(
            [
                s.station_id,
                s.name,
                s.district,
                "" if planned else s.docks,
                "" if mobile else f"{lat:.5f}",
                "" if mobile else f"{lon:.5f}",
                "" if planned or s.station_id in forgotten else s.opened.isoformat(),
            ]
        )
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["station_id", "name", "district", "docks", "lat", "lon", "opened"])
        out.writerows(rows)


# --- weather ----------------------------------------------------------------


@dataclass
class Weather:
    """One day at the weather mast."""

    day: date
    temp_c: float
    rain_mm: float
    wind_ms: float
    snow: bool


def weather() -> dict[date, Weather]:
    """Mild and wet winters by the sea; a warm or cold spell lasts some days."""
    rng = stream("weather")
    found: dict[date, Weather] = {}
    spell, wet = 0.0, False
    for number in range((LAST_DAY - FIRST_DAY).days + 1):
        day = FIRST_DAY + timedelta(days=number)
        season = 9.5 - 8.0 * math.cos(2 * math.pi * (number - 20) / 366)
        spell = 0.75 * spell + rng.gauss(0, 2.0)
        wet = rng.random() < (0.58 if wet else 0.27)
        rain = round(min(rng.expovariate(1 / 4.5) + 0.2, 28.0), 1) if wet else 0.0
        temp = round(season + spell - (0.8 if wet else 0.0), 1)
        wind = round(max(0.4, rng.gammavariate(4.0, 1.3) + (1.5 if wet else 0.0)), 1)
        found[day] = Weather(day, temp, rain, wind, snow=rain > 0 and temp < 1.0)
    return found


def write_weather(path: Path, days: dict[date, Weather]) -> None:
    """The rain gauge was frozen or blocked on two days: no value, not zero."""
    broken = {date(2024, 2, 14), date(2024, 5, 21)}
    text = io.StringIO(newline="")
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["day", "temp_c", "rain_mm", "wind_ms", "snow"])
    for w in days.values():
        rain = "" if w.day in broken else f"{w.rain_mm:.1f}"
        out.writerow([w.day.isoformat(), f"{w.temp_c:.1f}", rain, f"{w.wind_ms:.1f}", str(w.snow).lower()])
    # No name and no time in the gzip header: same content, same bytes.
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        file.write(text.getvalue().encode())


# --- trips ------------------------------------------------------------------

# Who starts in which hour of the day (0 to 23), as weights.
COMMUTE = [1, 0, 0, 0, 1, 4, 16, 50, 78, 38, 16, 14, 20, 18, 16, 24, 46, 80, 60, 32, 20, 14, 9, 4]
LEISURE = [4, 2, 1, 0, 0, 1, 2, 5, 10, 20, 34, 46, 54, 58, 62, 64, 60, 52, 44, 34, 26, 20, 14, 8]
ERRANDS = [3, 2, 1, 0, 0, 2, 6, 12, 22, 34, 44, 50, 50, 46, 44, 44, 46, 48, 42, 32, 24, 18, 12, 6]

# How many set out on a dry, warm day (before the season), Monday to Sunday.
WISHES = {
    "member": [228, 240, 242, 238, 216, 132, 106],
    "casual": [46, 44, 48, 52, 78, 148, 138],
}

# How strongly one millimetre of rain keeps riders away, by kind of station.
RAIN = {"work": 0.035, "transit": 0.04, "campus": 0.05, "home": 0.055, "shop": 0.10, "leisure": 0.24}

# Where trips begin and end: member mornings, member evenings, all the rest.
PLACES = {
    "morning": (
        {"home": 9, "transit": 6, "work": 1, "campus": 1, "shop": 1, "leisure": 0.3},
        {"home": 0.8, "transit": 4, "work": 9, "campus": 5, "shop": 1, "leisure": 0.3},
    ),
    "evening": (
        {"home": 1, "transit": 4, "work": 9, "campus": 4, "shop": 3, "leisure": 1},
        {"home": 9, "transit": 5, "work": 0.7, "campus": 1, "shop": 3, "leisure": 1.5},
    ),
    "errand": (
        {"home": 4, "transit": 4, "work": 2, "campus": 3, "shop": 5, "leisure": 3},
        {"home": 4, "transit": 4, "work": 2, "campus": 3, "shop": 5, "leisure": 3},
    ),
    "outing": (
        {"home": 1, "transit": 5, "work": 0.3, "campus": 1, "shop": 4, "leisure": 9},
        {"home": 1, "transit": 4, "work": 0.3, "campus": 1, "shop": 4, "leisure": 10},
    ),
}


@dataclass
class Trip:
    """One row of trips; a trip id comes when all are in order of time."""

    started_at: datetime
    ended_at: datetime | None
    start_station: int
    end_station: int | None
    rider: str
    bike: str
    distance_m: float | None


class Town:
    """Draws where a trip begins and ends; remembers the weights it worked out."""

    def __init__(self, all_stations: list[Station]) -> None:
        self.stations = all_stations
        self.weights: dict[tuple, tuple[list[Station], list[float]]] = {}

    def start(self, rng: random.Random, day: date, purpose: str) -> Station:
        """A station that is open, by its kind and its pull."""
        kinds = PLACES[purpose][0]
        return self.draw(rng, day, (purpose,), lambda s: kinds[s.kind] * s.pull)

    def end(self, rng: random.Random, day: date, purpose: str, start: Station) -> Station:
        """The same, and the nearer the likelier; only outings come back."""
        kinds = PLACES[purpose][1]

        def weight(s: Station) -> float:
            if s is start:
                return 4.0 if purpose == "outing" else 0.0
            return kinds[s.kind] * s.pull * math.exp(-kilometres(start, s) / 1.8)

        return self.draw(rng, day, (purpose, start.station_id), weight)

    def draw(self, rng, day, key, weight) -> Station:
        """One open station by weight."""
        key = (*key, sum(s.opened <= day for s in self.stations))
        if key not in self.weights:
            open_ones = [s for s in self.stations if s.opened <= day]
            self.weights[key] = (open_ones, [weight(s) for s in open_ones])
        return rng.choices(*self.weights[key])[0]


def kilometres(a: Station, b: Station) -> float:
    """As the gull flies."""
    return math.hypot(a.east_km - b.east_km, a.north_km - b.north_km)


def trips(all_stations: list[Station], days: dict[date, Weather]) -> list[Trip]:
    """All trips in order of time, with the odd rows that real data has."""
    rng = stream("trips")
    town = Town(all_stations)
    found: list[Trip] = []
    for w in days.values():
        for rider, wishes in WISHES.items():
            season = 0.78 + 0.45 * (w.day - FIRST_DAY).days / 181
            if rider == "casual":
                season *= season
            wished = rng.gauss(1, 0.04) * season * wishes[w.day.weekday()]
            for _ in range(round(wished)):
                found += one_trip(rng, town, w, rider)
    found += odd_trips(stream("odd trips"), town, days)
    found.sort(key=lambda t: (t.started_at, t.start_station, t.rider, t.bike))
    return found


def one_trip(rng: random.Random, town: Town, w: Weather, rider: str) -> list[Trip]:
    """One trip, or none if the weather kept its rider at home."""
    purpose, hours = purpose_of(rng, w.day, rider)
    hour = rng.choices(range(24), hours)[0]
    if purpose == "commute":
        purpose = "morning" if hour < 11 else "evening" if hour > 14 else "errand"
    start = town.start(rng, w.day, purpose)
    if rng.random() > goes_out(w, rider, start.kind):
        return []
    end = town.end(rng, w.day, purpose, start)
    electric = rng.random() < (0.38 if rider == "member" else 0.52)
    metres, seconds = ride(rng, start, end, rider, electric)
    started = datetime.combine(w.day, datetime.min.time()) + timedelta(hours=hour, seconds=rng.randrange(3600))
    place = rng.random()  # a few bikes are left in the street, fewer go to the workshop
    end_id = None if place < 0.012 else WORKSHOP if place < 0.015 else end.station_id
    return [
        Trip(
            started_at=started,
            ended_at=started + timedelta(seconds=seconds),
            start_station=start.station_id,
            end_station=end_id,
            rider=rider,
            bike="electric" if electric else "classic",
            distance_m=metres,
        )
    ]


def purpose_of(rng: random.Random, day: date, rider: str) -> tuple[str, list[int]]:
    """Why somebody rides, and the hours that go with it."""
    weekend = day.weekday() >= 5
    if rider == "member" and not weekend and rng.random() < 0.75:
        return "commute", COMMUTE
    if rider == "member" and rng.random() < (0.5 if weekend else 0.9):
        return "errand", ERRANDS
    return "outing", LEISURE


def goes_out(w: Weather, rider: str, kind: str) -> float:
    """The share of riders whom the weather does not stop."""
    cold = 1 / (1 + math.exp(-(w.temp_c - (1.0 if rider == "member" else 8.0)) / 4.5))
    rain = math.exp(-RAIN[kind] * min(w.rain_mm, 12.0))
    wind = 1.0 if w.wind_ms < 9 else 0.8
    return cold * rain * wind * (0.4 if w.snow else 1.0)


def ride(rng: random.Random, start: Station, end: Station, rider: str, electric: bool) -> tuple[float, int]:
    """Metres and seconds. Half metres add up exactly in any order."""
    crow = kilometres(start, end)
    km = rng.uniform(1.5, 7.0) if start is end else max(0.3, crow * rng.uniform(1.15, 1.55))
    speed = (17.5 if electric else 14.0) * (0.8 if rider == "casual" else 1.0) * rng.uniform(0.8, 1.2)
    stops = rng.expovariate(1 / (420 if rider == "casual" else 70))
    return round(km * 2000) / 2, 60 + round(km / speed * 3600 + stops)


def odd_trips(rng: random.Random, town: Town, days: dict[date, Weather]) -> list[Trip]:
    """Bikes put back at once, bikes that never came back, one out for days."""
    found = []
    for number, day in enumerate(rng.sample(sorted(days), 24)):
        start = town.start(rng, day, "errand").station_id
        at = datetime.combine(day, datetime.min.time()) + timedelta(seconds=rng.randrange(7 * 3600, 22 * 3600))
        rider, bike = rng.choice(["member", "casual"]), rng.choice(["classic", "electric"])
        if number < 7:  # lost
            found.append(Trip(at, None, start, None, rider, bike, None))
        elif number < 23:  # a flat tyre, seen in time
            put_back = at + timedelta(seconds=rng.randrange(15, 90))
            found.append(Trip(at, put_back, start, start, rider, bike, 0.0))
        else:  # out for days
            found.append(Trip(at, at + timedelta(hours=61, minutes=17), start, start, rider, bike, 5320.5))
    return found


def write_trips(folder: Path, all_trips: list[Trip]) -> None:
    """One file per month in a hive-partitioned folder."""
    schema = pa.schema(
        [
            ("trip_id", pa.int64()),
            ("started_at", pa.timestamp("us")),
            ("ended_at", pa.timestamp("us")),
            ("start_station", pa.int32()),
            ("end_station", pa.int32()),
            ("rider", pa.string()),
            ("bike", pa.string()),
            ("distance_m", pa.float64()),
        ]
    )
    shutil.rmtree(folder, ignore_errors=True)
    months: dict[tuple[int, int], list[dict]] = {}
    for trip_id, trip in enumerate(all_trips, FIRST_TRIP_ID):
        month = (trip.started_at.year, trip.started_at.month)
        months.setdefault(month, []).append({"trip_id": trip_id, **vars(trip)})
    for (year, month), rows in months.items():
        path = folder / f"year={year}" / f"month={month:02}" / f"trips-{year}-{month:02}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd", compression_level=9)


# --- dock sensors -----------------------------------------------------------


def readings(all_stations: list[Station]) -> list[dict]:
    """A Friday morning: homes empty, offices fill, two sensors fall silent."""
    rng = stream("events")
    found = []
    open_ones = [s for s in all_stations if s.opened <= SENSOR_START.date()]
    silent = set(rng.sample([s.station_id for s in open_ones], 2))
    for s in open_ones:
        wired = rng.random() < 0.3
        free = round(s.docks * rng.uniform(0.2, 0.8))
        battery = rng.uniform(0.12, 1.0)
        firmware = rng.choice(["2.3.9", "2.4.0", "2.4.1"])
        offset = rng.uniform(0, 900)
        for number in range(SENSOR_ROUNDS):
            if rng.random() < 0.01 or (s.station_id in silent and number > 13):
                continue
            at = SENSOR_START + timedelta(seconds=number * 900 + offset + rng.uniform(0, 4))
            free = min(s.docks, max(0, free + tide(rng, s.kind, at)))
            battery -= 0.002
            found.append(
                {
                    "ts": at.isoformat(timespec="milliseconds") + "Z",
                    "station_id": s.station_id,
                    "free_docks": free,
                    "battery": None if wired else round(battery, 3),
                    "tags": tags(rng, s, free, None if wired else battery),
                    "meta": {"firmware": firmware, "signal_dbm": None if wired else rng.randrange(-105, -55)},
                }
            )
    found.sort(key=lambda r: (r["ts"], r["station_id"]))
    return found


def tide(rng: random.Random, kind: str, at: datetime) -> int:
    """How many docks become free in a quarter of an hour."""
    rush = 1.6 if at.hour in (7, 8) else 0.3
    drift = {"home": rush, "transit": 0.3, "work": -rush, "campus": -rush, "shop": -0.2, "leisure": -0.2}[kind]
    return round(rng.gauss(drift, 1.3))


def tags(rng: random.Random, s: Station, free: int, battery: float | None) -> list[str]:
    """What the sensor itself makes of its reading; most have nothing to say."""
    found = []
    if free == 0:
        found.append("full")
    if free == s.docks:
        found.append("empty")
    if battery is not None and battery < 0.2:
        found.append("low_battery")
    if rng.random() < 0.015:
        found.append("door_open")
    return found


def write_readings(path: Path, all_readings: list[dict]) -> None:
    """One JSON object per line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for reading in all_readings:
            file.write(json.dumps(reading, separators=(",", ":")) + "\n")


# What each pass costs, from when on; a pass without a price is sold no more.
PRICES = [
    ("2024-01-01", "day", "Day pass", "4.50"),
    ("2024-01-01", "month", "Monthly pass", "19.00"),
    ("2024-01-01", "year", "Yearly pass", "149.00"),
    ("2024-02-10", "night", "Night pass", "3.00"),
    ("2024-03-01", "month", "Monthly pass", "21.00"),
    ("2024-03-01", "year", "Yearly pass", "159.00"),
    ("2024-04-15", "night", "Night pass", None),
    ("2024-05-01", "student", "Student pass", "12.50"),
    ("2024-06-01", "day", "Day pass", "4.80"),
]


def price_changes() -> list[dict]:
    """The changes of a table of prices, as Debezium tells them."""
    rows: dict[str, dict] = {}
    changes = []
    for day, code, name, price in PRICES:
        moment = datetime.fromisoformat(day)
        before, after = rows.pop(code, None), None
        if price is not None:
            since = int((moment - datetime(1970, 1, 1)).total_seconds()) * 1_000_000
            after = rows[code] = {"code": code, "name": name, "price": price, "since": since}
        op = "c" if before is None else "u" if after else "d"
        source = {"connector": "postgresql", "table": "passes"}
        changes.append({"before": before, "after": after, "source": source, "op": op})
    return changes


def main() -> None:
    """Writes every file beside this one and says what it wrote."""
    all_stations, days = stations(), weather()
    write_stations(HERE / "stations.csv", all_stations)
    write_weather(HERE / "weather.csv.gz", days)
    write_trips(HERE / "trips", trips(all_stations, days))
    write_readings(HERE / "events.ndjson", readings(all_stations))
    write_readings(HERE / "passes.ndjson", price_changes())
    singles = [HERE / name for name in ("stations.csv", "weather.csv.gz", "events.ndjson", "passes.ndjson")]
    for path in [*sorted((HERE / "trips").rglob("*.parquet")), *singles]:
        print(f"{path.stat().st_size:>9,}  {path.relative_to(HERE)}")


if __name__ == "__main__":
    main()
