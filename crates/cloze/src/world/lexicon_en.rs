//! The English words. Nouns: `/p` plural, `/m` without plural, places with their preposition when it is not "at".
//!
//! Patterns: `{T}`, `{P}`, `{L}`, `{X}` name a thing, person, place, prop and become the subject; small letters name them as
//! objects; `{S}` is who tells the story; `<verb>` agrees with the last subject. The whole list stands in `grammar_en`.

use super::Polarity::{Negative, Positive};
use super::Topic;
use super::lexicon::{Class, Role, Tone};

struct TopicWords {
    topic: Topic,
    things: &'static str,
    people: &'static str,
    places: &'static str,
    props: &'static str,
    good: &'static str,
    bad: &'static str,
    acts: &'static [&'static str],
    events: &'static [&'static str],
}

const TOPICS: [TopicWords; 6] = [
    TopicWords {
        topic: Topic::Food,
        things: "soup stew curry salad pasta/m risotto omelette pancakes/p dumplings/p noodles/p rice/m bread/m sandwich \
                 burger pizza pie apple_tart cheesecake pudding ice_cream/m chocolate_cake steak chicken/m lamb/m \
                 salmon/m tuna/m",
        people: "waiter waitress chef cook baker butcher barista bartender caterer fishmonger",
        places: "café restaurant bistro bakery diner canteen pub tavern pizzeria steakhouse",
        props: "spoon fork plate menu recipe bowl napkin oven saucepan kettle teapot apron",
        good: "delicious tasty flavoursome appetising scrumptious succulent hearty mouthwatering nourishing wholesome",
        bad: "bland stale tasteless overcooked undercooked inedible rancid unappetising soggy greasy",
        acts: &[
            "{S} <order> {t}",
            "{S} <cook> {t} for dinner",
            "{S} <taste> {t}",
            "{S} <eat> {t} by the window",
            "{P} <bring> {t} to the table",
            "{P} <serve> {t} at noon",
            "{S} <finish> {t}",
            "{P} <prepare> {t} in the kitchen",
        ],
        events: &[
            "{P} <put> {x} next to {x2}",
            "{S} <be> hungry and <look> at {x}",
            "{S} <ask> {p} for {ax}",
            "{P} <divide> {t} into four portions",
            "{P} <wash> {x} after the meal",
            "{S} <pay> the bill and <leave> a tip for {p}",
            "{P} <carry> {t} on {ax}",
            "{P} <slice> onions and <pour> some oil into {x}",
            "the smell of {t} <fill> the room",
            "{S} <drink> a glass of water with {t}",
        ],
    },
    TopicWords {
        topic: Topic::Travel,
        things: "island beach castle palace temple museum canyon waterfall lagoon bazaar cathedral old_town village fjord \
                 coastline national_park ruins/p gardens/p promenade fortress caves/p vineyard monastery oasis volcano \
                 glacier",
        people: "tour_guide flight_attendant bus_driver receptionist porter captain tourist passenger pilot taxi_driver",
        places: "hotel hostel airport railway_station resort guesthouse inn motel campsite travel_agency",
        props: "passport suitcase ticket map backpack boarding_pass visa compass guidebook luggage/m postcard camera",
        good: "scenic picturesque breathtaking unforgettable relaxing luxurious idyllic serene exotic romantic",
        bad: "overpriced overcrowded exhausting touristy uncomfortable chaotic disorganised stressful unsafe unwelcoming",
        acts: &[
            "{S} <visit> {t}",
            "{S} <photograph> {t}",
            "{S} <explore> {t}",
            "{S} <reach> {t} by train",
            "{P} <show> {o} {t}",
            "{S} <plan> a trip to {t}",
            "{S} <see> {t} from the bus",
            "{P} <lead> the group to {t}",
        ],
        events: &[
            "{S} <pack> {x} and {x2}",
            "{P} <check> {x} at the border",
            "{S} <leave> {x} at the reception",
            "{S} <land> late and <wait> for {x}",
            "{P} <point> at {t} and <tell> a story",
            "{S} <cross> the river to see {t}",
            "{S} <get> lost and <ask> {p} for the way to {t}",
            "{P} <stamp> {x} and <nod>",
            "{S} <lose> {x} on the way to {t}",
            "{S} <buy> {ax} before the departure",
        ],
    },
    TopicWords {
        topic: Topic::Sport,
        things: "match game race final tournament marathon competition training_session derby semifinal relay sprint \
                 contest championship playoff triathlon regatta bout rally decathlon quarter-final cup_tie rematch \
                 time_trial penalty_shootout league_match",
        people: "goalkeeper striker coach referee team_captain defender midfielder runner swimmer cyclist",
        places: "stadium gym arena/in tennis_court/on swimming_pool racetrack pitch/on velodrome ice_rink sports_club",
        props: "ball whistle helmet racket net trophy medal jersey football_boots/p scoreboard bicycle puck",
        good: "thrilling exciting gripping heroic spectacular skilful energetic fearless dynamic inspiring",
        bad: "dull sluggish sloppy clumsy toothless scrappy unfair listless uneven cowardly",
        acts: &[
            "{S} <watch> {t} on television",
            "{S} <train> hard for {t}",
            "{P} <dominate> {t}",
            "{S} <cheer> during {t}",
            "{P} <prepare> the team for {t}",
            "{S} <follow> {t} from the stands",
            "{P} <win> {t} by two points",
            "{S} <buy> a seat for {t}",
        ],
        events: &[
            "{P} <throw> {x} to {p}",
            "{P} <score> twice in the first half",
            "{P} <stretch> before {t}",
            "{P} <lift> {x} in front of the fans",
            "{P} <pass> {p} near the finish line",
            "{S} <run> five laps and <put> away {x}",
            "{P} <hold> {x} with both hands",
            "the fans <sing+> all through {t}",
            "{P} <injure> a knee before {t}",
            "{P} <shout> at {p} after the foul",
        ],
    },
    TopicWords {
        topic: Topic::Technology,
        things: "laptop phone tablet app website software/m update printer browser headset router screen operating_system \
                 search_engine smartwatch drone robot database server user_interface processor computer scanner \
                 projector touchscreen program",
        people: "programmer engineer developer web_designer technician hacker tester data_analyst administrator inventor",
        places: "office laboratory/in computer_shop startup repair_shop server_room/in workshop/in data_centre \
                 electronics_fair research_centre",
        props: "cable keyboard button plug memory_card adapter fuse sensor circuit_board charger antenna soldering_iron",
        good: "reliable responsive intuitive sleek efficient powerful innovative robust secure versatile",
        bad: "buggy laggy glitchy outdated clunky insecure unresponsive defective faulty bloated",
        acts: &[
            "{S} <install> {t}",
            "{S} <restart> {t}",
            "{P} <test> {t}",
            "{P} <design> {t} from scratch",
            "{S} <connect> {t} to the internet",
            "{P} <repair> {t} within an hour",
            "{S} <download> the files for {t}",
            "{S} <replace> the old model with {t}",
        ],
        events: &[
            "{S} <look> for {x} and <press> enter",
            "{P} <replace> {x} and <switch> on {t}",
            "{P} <write> a program for {t}",
            "{P} <keep> {x} next to {t}",
            "{S} <forget> {x} and <call> {p}",
            "{P} <explain> the purpose of {x}",
            "{P} <upload> the new version of {t}",
            "{S} <point> at {x} and <wait> for a signal",
            "{P} <encrypt> the data on {t}",
            "{P} <present> {t} on a large display",
        ],
    },
    TopicWords {
        topic: Topic::Weather,
        things: "weather/m breeze rain/m snow/m wind fog/m mist/m drizzle winter summer autumn spring sunshine/m frost/m \
                 heat/m dry_season rainy_season snowfall sea_breeze north_wind warm_front haze cloud_cover/m sea_fog/m \
                 thaw cold_front",
        people: "forecaster meteorologist farmer sailor gardener shepherd fisherman lighthouse_keeper forester beekeeper",
        places: "valley/in coast/on hillside/on lake/by meadow/in weather_station mountains/in riverbank/on moor/on \
                 lighthouse",
        props: "umbrella raincoat thermometer barometer scarf sledge sunglasses/p snow_shovel weather_map woollen_gloves/p \
                 sundial rain_gauge",
        good: "mild gentle refreshing balmy soothing invigorating crisp calm bracing temperate",
        bad: "harsh bitter gloomy dreary bleak nasty foul oppressive stifling treacherous",
        acts: &[
            "{P} <predict> {t}",
            "{S} <notice> {t} at sunrise",
            "{P} <measure> {t} every hour",
            "{S} <step> outside into {t}",
            "{P} <warn> the village about {t}",
            "{S} <walk> the dog through {t}",
            "{S} <open> the curtains and <see> {t}",
            "{P} <study> {t} with a balloon",
        ],
        events: &[
            "{S} <close> the shutters because of {t}",
            "{T} <arrive> earlier than usual",
            "{S} <take> {x} along because of the clouds",
            "{P} <carry> {ax} under one arm",
            "{T} <last> until Sunday",
            "{P} <hang> {x} on the wall",
            "{S} <shiver> and <look> for {x}",
            "{T} <affect> the whole region",
            "{P} <expect> ten degrees and {t}",
            "{S} <forget> {x} and <get> wet",
        ],
    },
    TopicWords {
        topic: Topic::Music,
        things: "song melody symphony opera ballad duet solo chorus tune anthem lullaby soundtrack sonata waltz overture \
                 remix aria serenade hymn bass_line folk_song piano_piece march cantata love_song requiem",
        people: "singer drummer guitarist pianist violinist conductor composer cellist trumpeter bassist",
        places: "concert_hall opera_house music_club jazz_bar recording_studio/in music_school rehearsal_room/in \
                 festival_ground bandstand record_shop",
        props: "guitar piano violin cello drum trumpet flute microphone amplifier sheet_music/m baton loudspeaker",
        good: "catchy melodious harmonious soulful uplifting tuneful rousing stirring virtuosic lyrical",
        bad: "monotonous shrill discordant repetitive screechy jarring tuneless deafening grating uninspired",
        acts: &[
            "{S} <listen> to {t}",
            "{P} <rehearse> {t}",
            "{S} <hum> {t}",
            "{P} <record> {t} in one take",
            "{S} <dance> to {t}",
            "{P} <compose> {t} at night",
            "{S} <hear> {t} on the radio",
            "{P} <perform> {t} without notes",
        ],
        events: &[
            "{P} <tune> {x} before the show",
            "{P} <sing> the first verse without {x}",
            "{S} <practise> on {x} for two hours",
            "{P} <teach> {p} how to hold {x}",
            "{P} <bow> to the audience after {t}",
            "{S} <clap> in time with {t}",
            "{P} <place> {x} beside {x2}",
            "{P} <arrange> {t} for {x} and {x2}",
            "{P} <join> {p} for {t}",
            "{S} <turn> up the volume for {t}",
        ],
    },
];

const ANY: [&str; 2] = [
    "wonderful excellent fantastic amazing superb brilliant great perfect marvellous splendid outstanding magnificent \
     terrific fabulous exceptional impressive lovely delightful charming remarkable stunning beautiful awesome admirable",
    "awful terrible horrible dreadful disappointing poor bad mediocre appalling dire atrocious lousy abysmal disastrous \
     pathetic horrendous unpleasant ghastly ridiculous unacceptable frustrating tedious boring annoying",
];
const PERSON: [&str; 2] = [
    "friendly kind polite patient helpful cheerful attentive generous courteous gracious considerate humble thoughtful \
     professional",
    "rude impatient arrogant careless lazy unfriendly grumpy hostile selfish incompetent impolite dishonest moody greedy",
];
const PLACE: [&str; 2] = [
    "cosy clean spotless welcoming tidy spacious elegant inviting peaceful comfortable",
    "filthy dirty noisy cramped smelly shabby dingy grimy squalid draughty",
];
const FEELING: [&str; 2] = [
    "delighted happy thrilled satisfied pleased grateful contented overjoyed relieved enchanted",
    "disappointed sad angry annoyed upset furious irritated unhappy disgusted dismayed",
];
/// Base forms.
const ATTITUDE: [&str; 2] =
    ["love enjoy adore like admire appreciate praise cherish applaud", "hate dislike detest loathe regret criticise resent despise reject"];
const OUTCOME: [&str; 2] = [
    "a_delight a_joy a_pleasure a_triumph a_masterpiece a_treat a_success a_highlight a_gem",
    "a_disaster a_disappointment a_failure a_nightmare a_mess a_letdown a_waste_of_money a_disgrace a_fiasco",
];
const MANNER: [&str; 2] = [
    "superbly beautifully perfectly brilliantly admirably gracefully flawlessly expertly wonderfully",
    "badly terribly poorly awfully carelessly horribly clumsily miserably dreadfully",
];

/// All classes with their words.
pub(super) fn entries() -> Vec<(Class, Vec<&'static str>)> {
    let words = |list: &'static str| list.split_whitespace().collect::<Vec<_>>();
    let mut entries = Vec::new();
    for t in &TOPICS {
        entries.push((Class::Topic(t.topic, Role::Thing), words(t.things)));
        entries.push((Class::Topic(t.topic, Role::Person), words(t.people)));
        entries.push((Class::Topic(t.topic, Role::Place), words(t.places)));
        entries.push((Class::Topic(t.topic, Role::Prop), words(t.props)));
        entries.push((Class::Topic(t.topic, Role::Act), t.acts.to_vec()));
        entries.push((Class::Topic(t.topic, Role::Event), t.events.to_vec()));
        entries.push((Class::Tone(Positive, Tone::Thing(t.topic)), words(t.good)));
        entries.push((Class::Tone(Negative, Tone::Thing(t.topic)), words(t.bad)));
    }
    for (p, polarity) in [Positive, Negative].into_iter().enumerate() {
        for (tone, list) in [
            (Tone::Any, ANY),
            (Tone::Person, PERSON),
            (Tone::Place, PLACE),
            (Tone::Feeling, FEELING),
            (Tone::Attitude, ATTITUDE),
            (Tone::Outcome, OUTCOME),
            (Tone::Manner, MANNER),
        ] {
            entries.push((Class::Tone(polarity, tone), words(list[p])));
        }
    }
    entries
}
