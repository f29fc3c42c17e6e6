"""Everyday English: what a question may be made of without calling for a specialist.

Words (mostly as stems) that nine and more of the 7,473 grade-school problems of GSM8K's training set use (MIT licence),
and the vocabulary of plain questions about the world, added by hand.
"""

from __future__ import annotations

_TEXT = """
able about above absent accidentally account acre across act activity actor actually add addition additional
address adopted adult afford after afternoon again age ago agreed agrees air airplane airport album alive all
allowance allowed almost alone along alphabet already also although altogether always america american among
amount amusement ancient and anger animal annual another answer antonym ants any anything apart apartment apiece
appear apple apply april aquarium are area arm army around arrive art artist aside ask asleep assigned assuming
astronaut ate attend aunt author autumn available average away baby babysitting back backpack backyard bacon bad
bag bake bakery balance ball balloon banana band bank bar base baseball basket basketball batch bath bathroom
battle beach beads beans bear beat beautiful because become bed bedroom bee beef been before begin behind being
believe below berries best better between bicycle big bike bill bird birth birthday black block blood blue
blueberries board boat body boil bone bonus book bookstore border born borrow boss both bottle bottom bought
bowl box boy bracelet brain brand brave bread break breakfast bridge bright bring broke broken brother brought
brown brownies bucket budget build built bulbs bulk bunch burger burn bus business busy but button buy cafe
cafeteria cake calculate call calories came camera camp can can't candles candy cannot capacity capital caps car
care carrots carry cart carton case cash cashier cat catch caught celebrate cell center centimeters cents
century cereal certain chair chance change charge charity cheap check cheese chemical cherry chicken child
children chip chocolate chooses chores christmas church circle city class classmates classroom clean clear
client climb clock close closet clothes clothing cloud club coach coast coat coconut code coffee coins cold
collect collection college color colour combine come commission common community company compared competing
competition complete composer computer concert cone consists constant construction consume contain contest
continent continue contribute cook cookie cool copy corn correct cost could count country couple coupon course
cousin cover cow crackers crate crayons cream create credit cross cry cubic cucumbers cup cupcakes currency
current customer cut dad daily daisies damaged dance danger dark data date daughter day dead deal dear death
decide deck deep definition degrees deliver delivery department deposit describe desert desk dessert destination
dictionary did didn't die difference different difficult dimes dinner dinosaur direction dirty discount discover
dishes distance divide doctor does doesn't dog doing dollar dolls don't donate donation done donuts door double
dough down dozen drank draw dream dress drew drink drive drop drove dry ducks due during each ear earn earrings
earth easily east easy eat eaten egg eight eighth either electric electricity element elephant eleven else email
employee empty end energy engine english enjoy enough enter entire episode equal equipment europe even event
ever every everyone everything exact exam example except exchange exercise expenses expensive experience extra
eye fabric face fact factory fair fall false family family's famous far farm farther fast father favorite
favourite fear february fee feel feet fell female fence few field fifteen fifth fifty fight figure fill film
final fine finger finish fire fish fit five fix flag flat flight floor flour flower fly follow food foot
football for foreign forget forgot form forty found four fourth free freeze french fresh friday fridge fried
friend fries frog from front fruit fuel full fully fun fundraiser funny furniture further future gain gallon
game garage garden gas gave german get giant gift girl give given glad glass goal goats god goes going gold
goldfish gone good goodbye got government grade graders grams grandmother grape grass great green greet grew
grocery ground group grow grown guess guest guitar gum gym had hair half halfway ham hamburger hand handmade
happen happy hard harvest has hat hate have he's head health hear heart heat heavy height held hello help hens
her here herself high hike hill him himself hire his history hit hockey hole holiday home homework hope horse
hospital hosting hot hotel hour house how human hundred hungry hunt hurt husband ice idea identical ill
important inch include income increase individual ingredients initial inside instead instrument insurance
interest internet into invent invested investment invited iron island it's item its itself january jar jeans
jelly jewelry job join joke journey juice july jump june just keep kept key kid kill kilogram kilometer
kilometre kind king kitchen kittens knives know known laid lake land language laps large last late laugh laundry
law lawn lay lead leaf learn least leave left leftover leg lemon lemonade length less lessons let lettuce level
library lie life lift light like limit line lion liquid list listen liter little live load loaf loan loaves
local located lock lollipops long look lose lost lot loud love low luck lunch machine made magic mail main make
male mall man managed manager manages mango many map marathon marble march mark market married master match
materials math maximum meal mean measure meat medicine medium meet melt member men messages metal meter middle
mile milk mind mini minimum minister minute mirror miss mixture model mom monday money monkey month moon more
morning most mother mountain mouse mouth move movie mow mph much muffins multiple multiply museum music musician
must nails name narrow nation national native near nearby necklace need neighbor neighborhood neighbour net
never new newspaper next nice nickels night nine noise non normal north nose not notebook noticed notices noun
novel november now number nuts object ocean october off offered offering offers office often oil old once one
online only onto open opera opposite orange orchard order organ original other ounce our out outside oven over
overtime owe own oxygen pace pack package packet page paid paint pair pan pancakes pants paper parent park part
particular party pass passengers past pay paycheck payment peace peaches peanut pears pen pencil penguin pennies
people peppers per percent percentage period person pet phone photo piano pick picnic picture pie piece pig
piggy pile pills pink pints pizza place plain plan plane planet plant plastic plate play please plural plus
pocket poem poet point pond pool poor popcorn popular population possible pot potato pound power practice
prepared preparing present president pretty previous price prime print prize problem process produce production
products profit program project promotion property proud pull pumpkin puppy purchase purple push put puzzle
quart queen question quick quiet quite quiz rabbit race radio rain rainbow raise ran random rate ratio reach
read ready real realized realizes reason receive recent recipe recommended record rectangle rectangular
recycling red reduced refill register regular released religion remain remainder remember remove rent rental
repair repeat replace reply require research respectively rest restaurant return reunion revenue rhyme rice rich
ride right ring rise river road rock rode roll roof room rope rose rotten round route row rule run sad safe said
salad salary sale salt same sand sandwich saturday sauce save saw say school school's science scientist scoop
score sea seashells season seats second secret section see seen sell semester send senior sent sentence separate
september series serve service set seven seventh several shape share sharp she she'll she's sheep sheet shelf
shells shelter shelves shift ship shirt shoe shop short shots should shout show shut siblings sick side sign
silver similar since sing single sister sit site six sixth size skin skips sky sleep slice slow small smart
smell smile snack snake snow soap soccer social socks soda soft solar sold soldier solid some someone something
son song soon sorry sort sound soup south space spain spare speak special speed spell spend spent spider split
spoken sport spots spotted spring square stack stairs stamp stand standard star start state station stay steak
step stick stickers still stock stomach stone stop storage store storm story straight strawberry street string
strong student study stuffed style such sugar sum sun sunday sunny supermarket supply supposed sure surname
sweet swim symbol synonym system table tablespoons take taken talk tall tank taste tax tea teach team teaspoons
telephone television tell temperature ten tennis tense tenth test than thank that that's the theater their them
themselves then there these they they're thick thin thing think third thirty this those thousand three threw
thrice through throughout throw thrown thumb thursday ticket tie tiger tiles time tip tired tires title today
toe together told tomato tomorrow tongue tonight too took tool tooth top total touch towards towels town toy
track trade train translate translation transport trash travel tray treats tree triangle trip triple truck true
try tuesday tulips turn turtles twelve twenty twice two type uncle under understand unit universe until upcoming
ups use using usually vacation value vanilla various vegetable vehicles verb very video village visit voice
volcano volume votes wait wake walk wall wallet want war warehouse warm was wash wasn't watch water watermelon
way weak wear weather web website wedding wednesday week weekdays weekend weigh weight welcome well went were
west wet what what's wheel when where whether which while white who whole whose why wide width wife wild will
win window wine wing winter wish with within without woman women won wonder wood wooden word work workers world
worry worth would write written wrong wrote yard year yellow yes yesterday yet yield you young zero zone zoo
"""
WORDS = frozenset(_TEXT.split())
_ENDINGS = ("s", "es", "ed", "d", "ing", "ly", "er", "est", "r", "st")


def is_everyday(word: str) -> bool:
    """Whether a lower-case word, or what is left of it without an English ending, is on the list."""
    if len(word) <= 2 or word in WORDS:
        return True
    if word.endswith(_ENDINGS):
        for ending in _ENDINGS:
            if word.endswith(ending) and _is_stem(word[: -len(ending)]):
                return True
    return False


def _is_stem(stem: str) -> bool:
    if len(stem) <= 2:
        return False
    if stem in WORDS or stem + "e" in WORDS:
        return True
    return (stem[-1] == stem[-2] and stem[:-1] in WORDS) or (stem[-1] == "i" and stem[:-1] + "y" in WORDS)
