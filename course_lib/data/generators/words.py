"""The words, pairs and units that the families in `families` draw from. They are in plain English."""

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
NAMES = (
    "Ada Amir Bela Chen Dara Elif Femi Greta Hana Ines Jonas Kofi Lena Mateo Nadia Omar Priya Rosa Sven Tala".split()
)
CITIES = "Accra Bergen Cairo Dublin Geneva Hanoi Leeds Lima Lisbon Nairobi Oslo Porto Quito Riga Seoul Turin".split()
JOBS = "baker carpenter doctor engineer farmer gardener nurse pilot printer sailor tailor teacher welder".split()
CATEGORIES = {
    "animal": "badger beaver camel donkey eagle falcon goat heron horse lizard monkey otter owl rabbit tiger".split(),
    "fruit": "apple apricot banana cherry fig grape lemon lime mango melon olive orange peach pear plum".split(),
    "tool": "axe chisel drill file hammer ladder mallet pliers rake saw scissors shovel spade spanner trowel".split(),
}
TITLE_CASE = "title case (a capital for every word)"
NOUNS = (
    "anchor basket bottle bridge candle castle forest garden island jacket kettle lantern market mirror needle "
    "paper pencil pocket ribbon river saddle shadow silver timber tunnel valley velvet window"
).split()
GOODS = "basket bottle candle jacket kettle lantern mirror needle pencil ribbon saddle sofa teapot umbrella".split()
ADJECTIVES = "bright broken calm clever cold famous gentle green heavy hidden little lonely old quiet red rusty".split()
LONG_WORDS = (
    "accessible assessment balloon banana bookkeeper cinnamon committee coffee coconut difference embarrass "
    "engineer excellent happiness hippopotamus independence lighthouse mississippi necessary "
    "occurrence parallel possession raccoon referee strawberry successful tomorrow"
).split()
SENTENCES = (
    "The {} {} stood behind the {}",
    "Nobody saw the {} {} near the {}",
    "One {} {} fell into the {}",
    "She painted the {} {} and the {}",
    "Every {} {} needs its own {}",
    "My {} {} hides under your {}",
)

# Pairs rather than a rule, because the exceptions are the exercise. `|` separates answers that are equally right.
PLURALS = "mouse mice,child children,foot feet,tooth teeth,goose geese,man men,woman women,ox oxen"
PLURALS += ",leaf leaves,knife knives,wolf wolves,shelf shelves,wife wives,loaf loaves,half halves,thief thieves"
PLURALS += ",city cities,baby babies,lady ladies,story stories,berry berries,party parties,country countries"
PLURALS += ",box boxes,bus buses,dish dishes,church churches,fox foxes,glass glasses,watch watches,brush brushes"
PLURALS += ",potato potatoes,tomato tomatoes,hero heroes,crisis crises,analysis analyses,louse lice"
PLURALS += ",cat cats,dog dogs,book books,lamp lamps,boat boats,river rivers,day days,key keys,piano pianos,roof roofs"
PASTS = "go went,be was|were,see saw,eat ate,run ran,take took,give gave,come came,write wrote,speak spoke,drive drove"
PASTS += ",swim swam,sing sang,begin began,drink drank,ring rang,know knew,grow grew,fly flew,throw threw,draw drew"
PASTS += ",buy bought,bring brought,think thought,teach taught,catch caught,fight fought,sell sold,tell told,find found"
PASTS += ",hold held,keep kept,sleep slept,leave left,feel felt,meet met,lead led,stand stood,win won,choose chose"
PASTS += ",carry carried,study studied,try tried,stop stopped,plan planned,walk walked,open opened,visit visited"
OPPOSITES = "hot|warm cold,up down,open closed|shut,early late,full empty,heavy|dark light,wet dry,day night,high low"
OPPOSITES += (
    ",inside outside,buy sell,push pull,rich poor,strong weak,true false,before after,left|wrong right,north south"
)
OPPOSITES += ",east west,love hate,always never,young|new old,clean dirty,fast|quick slow,hard|loud soft|easy,near far"
OPPOSITES += ",long|tall short,thick|fat thin,winner loser,remember forget,arrive leave|depart,victory defeat"
OPPOSITES += ",ancient modern,sharp blunt|dull,brave cowardly,cheap expensive|dear,guilty innocent,wide|broad narrow"
OPPOSITES += ",success failure,summer winter"
VERBS = "painted painted,washed washed,stole stolen,found found,broke broken,carried carried,sold sold,drew drawn"
VERBS += ",chose chosen,repaired repaired,hid hidden,borrowed borrowed,dropped dropped,forgot forgotten,lost lost"

# (one, many, how many of the next unit it holds, the next unit's name, its plural)
UNITS = (
    ("kilometre", "kilometres", 1000, "metre", "metres"),
    ("metre", "metres", 100, "centimetre", "centimetres"),
    ("centimetre", "centimetres", 10, "millimetre", "millimetres"),
    ("kilogram", "kilograms", 1000, "gram", "grams"),
    ("litre", "litres", 1000, "millilitre", "millilitres"),
    ("hour", "hours", 60, "minute", "minutes"),
    ("minute", "minutes", 60, "second", "seconds"),
    ("day", "days", 24, "hour", "hours"),
    ("week", "weeks", 7, "day", "days"),
    ("year", "years", 12, "month", "months"),
    ("foot", "feet", 12, "inch", "inches"),
    ("yard", "yards", 3, "foot", "feet"),
)
