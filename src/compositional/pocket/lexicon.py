"""The words of Pocket in English, Spanish, French and German, and the English words of each tone."""

from __future__ import annotations

from dataclasses import dataclass

LANGUAGES = {"es": "Spanish", "fr": "French", "de": "German"}
TONES = ("professional", "casual", "witty", "paraphrase")

NAMES = (
    *("Anna", "Tom", "Lucy", "Ben", "Zoë", "José", "Chloé", "Jürgen", "Emma", "Paul"),
    *("Nora", "Max", "Inés", "André", "Mia", "Leo", "Clara", "Hugo", "Sofía", "Oskar"),
)


@dataclass(frozen=True)
class Verb:
    """A transitive verb. Columns follow the table below; `takes` names the noun classes of its object."""

    english: str
    past: str
    participle: str
    formal: str
    formal_past: str
    formal_gerund: str
    casual: str
    casual_past: str
    spanish: str
    spanish_past_he: str
    spanish_past_you: str
    french: str
    french_participle: str
    german: str
    german_participle: str
    takes: tuple[str, ...]
    mood: str
    quip: str


@dataclass(frozen=True)
class Noun:
    """A countable noun with its gender in each language (m, f, n)."""

    english: str
    formal: str
    spanish_gender: str
    spanish: str
    french_gender: str
    french: str
    german_gender: str
    german: str
    noun_class: str


@dataclass(frozen=True)
class Adjective:
    """An adjective that follows its noun in Spanish and French; German keeps the stem."""

    english: str
    spanish_m: str
    spanish_f: str
    french_m: str
    french_f: str
    german_stem: str


@dataclass(frozen=True)
class Adverbial:
    """A place or a time, whole as it stands in a sentence; `tense` is where a time may be used."""

    english: str
    casual: str
    spanish: str
    french: str
    german: str
    tense: str = "any"


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def _verbs() -> dict[str, Verb]:
    rows = _rows(_VERB_TABLE)
    return {row[0]: Verb(*row[:15], tuple(row[15].split()), row[16], row[17]) for row in rows}


def _nouns() -> dict[str, Noun]:
    nouns = {}
    for noun_class, english, formal, spanish, french, german in _rows(_NOUN_TABLE):
        nouns[english] = Noun(
            english, formal or english, *spanish.split(maxsplit=1), *french.split(maxsplit=1), *german.split(), noun_class
        )
    return nouns


# english | past | participle | formal | past | gerund | casual | past | es | él | tú | fr | participle | de | participle
# | takes | mood | quip of the witty tone
_VERB_TABLE = """
buy|bought|bought|purchase|purchased|purchasing|grab|grabbed|comprar|compró|compraste|acheter|acheté|kaufen|gekauft|thing food|good|hide your wallets
sell|sold|sold|relinquish|relinquished|relinquishing|flip|flipped|vender|vendió|vendiste|vendre|vendu|verkaufen|verkauft|thing|surprise|the bank is already singing
find|found|found|locate|located|locating|spot|spotted|encontrar|encontró|encontraste|trouver|trouvé|finden|gefunden|thing text|good|Sherlock would be proud
lose|lost|lost|misplace|misplaced|misplacing|ditch|ditched|perder|perdió|perdiste|perdre|perdu|verlieren|verloren|thing text|bad|call the search dogs
break|broke|broken|damage|damaged|damaging|wreck|wrecked|romper|rompió|rompiste|casser|cassé|zerbrechen|zerbrochen|thing|bad|gravity sends its regards
repair|repaired|repaired|restore|restored|restoring|fix up|fixed up|reparar|reparó|reparaste|réparer|réparé|reparieren|repariert|thing|luck|the toolbox is on vacation
paint|painted|painted|decorate|decorated|decorating|jazz up|jazzed up|pintar|pintó|pintaste|peindre|peint|bemalen|bemalt|thing|good|Picasso is taking notes
clean|cleaned|cleaned|sanitize|sanitized|sanitizing|scrub|scrubbed|limpiar|limpió|limpiaste|nettoyer|nettoyé|putzen|geputzt|thing|luck|the dust has hired a lawyer
rent|rented|rented|lease|leased|leasing|snag|snagged|alquilar|alquiló|alquilaste|louer|loué|mieten|gemietet|thing|surprise|owning things is so last year
win|won|won|secure|secured|securing|bag|bagged|ganar|ganó|ganaste|gagner|gagné|gewinnen|gewonnen|thing|good|luck clearly plays favorites
draw|drew|drawn|illustrate|illustrated|illustrating|doodle|doodled|dibujar|dibujó|dibujaste|dessiner|dessiné|zeichnen|gezeichnet|thing food|luck|stick figures tremble
hide|hid|hidden|conceal|concealed|concealing|stash|stashed|esconder|escondió|escondiste|cacher|caché|verstecken|versteckt|thing food text|surprise|pirates do it with less drama
cook|cooked|cooked|prepare|prepared|preparing|whip up|whipped up|cocinar|cocinó|cocinaste|cuisiner|cuisiné|kochen|gekocht|food|good|the smoke alarm is invited
order|ordered|ordered|request|requested|requesting|score|scored|pedir|pidió|pediste|commander|commandé|bestellen|bestellt|food|good|cooking is for heroes
burn|burned|burned|carbonize|carbonized|carbonizing|torch|torched|quemar|quemó|quemaste|brûler|brûlé|verbrennen|verbrannt|food|bad|charcoal is a spice now
taste|tasted|tasted|sample|sampled|sampling|try out|tried out|probar|probó|probaste|goûter|goûté|probieren|probiert|food|luck|the fork has no regrets
share|shared|shared|distribute|distributed|distributing|split|split|compartir|compartió|compartiste|partager|partagé|teilen|geteilt|food text|good|saints have done less
write|wrote|written|compose|composed|composing|scribble|scribbled|escribir|escribió|escribiste|écrire|écrit|schreiben|geschrieben|text|luck|Shakespeare is sweating
read|read|read|review|reviewed|reviewing|skim|skimmed|leer|leyó|leíste|lire|lu|lesen|gelesen|text|good|the glasses earned their pay
forget|forgot|forgotten|overlook|overlooked|overlooking|space on|spaced on|olvidar|olvidó|olvidaste|oublier|oublié|vergessen|vergessen|thing text|bad|elephants are laughing
translate|translated|translated|interpret|interpreted|interpreting|decode|decoded|traducir|tradujo|tradujiste|traduire|traduit|übersetzen|übersetzt|text|surprise|the dictionary asked for a raise
show|showed|shown|present|presented|presenting|flash|flashed|mostrar|mostró|mostraste|montrer|montré|zeigen|gezeigt|thing text|surprise|paparazzi are on their way
"""

_NOUN_TABLE = """
thing|bike|bicycle|f bicicleta|m vélo|n Fahrrad
thing|car|vehicle|m coche|f voiture|n Auto
thing|phone|telephone|m teléfono|m téléphone|n Telefon
thing|lamp|luminaire|f lámpara|f lampe|f Lampe
thing|chair|seat|f silla|f chaise|m Stuhl
thing|guitar||f guitarra|f guitare|f Gitarre
thing|watch|timepiece|m reloj|f montre|f Uhr
thing|coat|garment|m abrigo|m manteau|m Mantel
thing|camera||f cámara|m appareil|f Kamera
thing|table||f mesa|f table|m Tisch
thing|boat|vessel|m barco|m bateau|n Boot
thing|hat||m sombrero|m chapeau|m Hut
thing|mirror||m espejo|m miroir|m Spiegel
thing|umbrella||m paraguas|m parapluie|m Regenschirm
thing|key||f llave|f clé|m Schlüssel
thing|drum||m tambor|m tambour|f Trommel
food|cake||m pastel|m gâteau|m Kuchen
food|soup||f sopa|f soupe|f Suppe
food|salad||f ensalada|f salade|m Salat
food|fish||m pescado|m poisson|m Fisch
food|pizza||f pizza|f pizza|f Pizza
food|omelette||f tortilla|f omelette|n Omelett
food|sandwich||m bocadillo|m sandwich|n Brötchen
food|sausage||f salchicha|f saucisse|f Wurst
text|letter||f carta|f lettre|m Brief
text|story|narrative|f historia|f histoire|f Geschichte
text|poem||m poema|m poème|n Gedicht
text|report||m informe|m rapport|m Bericht
text|song|composition|f canción|f chanson|n Lied
text|recipe||f receta|f recette|n Rezept
text|message||m mensaje|m message|f Nachricht
text|book|volume|m libro|m livre|n Buch
"""

_ADJECTIVE_TABLE = """
red|rojo|roja|rouge|rouge|rot
green|verde|verde|vert|verte|grün
blue|azul|azul|bleu|bleue|blau
yellow|amarillo|amarilla|jaune|jaune|gelb
black|negro|negra|noir|noire|schwarz
strange|extraño|extraña|étrange|étrange|seltsam
heavy|pesado|pesada|lourd|lourde|schwer
round|redondo|redonda|rond|ronde|rund
"""

_PLACE_TABLE = """
at the market|down the market|en el mercado|au marché|auf dem Markt
in the park|in the park|en el parque|dans le parc|im Park
at school|at school|en la escuela|à l'école|in der Schule
at the station|by the station|en la estación|à la gare|am Bahnhof
in the garden|out in the garden|en el jardín|dans le jardin|im Garten
on the beach|on the beach|en la playa|sur la plage|am Strand
at the office|at work|en la oficina|au bureau|im Büro
in the kitchen|in the kitchen|en la cocina|dans la cuisine|in der Küche
at the library|at the library|en la biblioteca|à la bibliothèque|in der Bibliothek
in the café|at the café|en el café|au café|im Café
at the hotel|at the hotel|en el hotel|à l'hôtel|im Hotel
in the street|out on the street|en la calle|dans la rue|auf der Straße
at the museum|at the museum|en el museo|au musée|im Museum
at the harbor|by the harbor|en el puerto|au port|am Hafen
in the castle|up in the castle|en el castillo|dans le château|im Schloss
at church|at church|en la iglesia|à l'église|in der Kirche
"""

_TIME_TABLE = """
on Monday|Monday|el lunes|lundi|am Montag|any
on Tuesday|Tuesday|el martes|mardi|am Dienstag|any
on Wednesday|Wednesday|el miércoles|mercredi|am Mittwoch|any
on Thursday|Thursday|el jueves|jeudi|am Donnerstag|any
on Friday|Friday|el viernes|vendredi|am Freitag|any
on Saturday|Saturday|el sábado|samedi|am Samstag|any
on Sunday|Sunday|el domingo|dimanche|am Sonntag|any
in March|in March|en marzo|en mars|im März|any
in August|in August|en agosto|en août|im August|any
in October|in October|en octubre|en octobre|im Oktober|any
tomorrow|tomorrow|mañana|demain|morgen|future
next week|next week|la próxima semana|la semaine prochaine|nächste Woche|future
this evening|tonight|esta noche|ce soir|heute Abend|future
yesterday|yesterday|ayer|hier|gestern|past
last week|last week|la semana pasada|la semaine dernière|letzte Woche|past
last night|last night|anoche|hier soir|gestern Abend|past
"""

VERBS: dict[str, Verb] = _verbs()
NOUNS: dict[str, Noun] = _nouns()
ADJECTIVES: dict[str, Adjective] = {row[0]: Adjective(*row) for row in _rows(_ADJECTIVE_TABLE)}
PLACES: dict[str, Adverbial] = {row[0]: Adverbial(*row) for row in _rows(_PLACE_TABLE)}
TIMES: dict[str, Adverbial] = {row[0]: Adverbial(*row) for row in _rows(_TIME_TABLE)}
