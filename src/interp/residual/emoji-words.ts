/** @file Which emoji stands for which words; singular, a phrase's words apart by spaces. Order does not matter. */

const TABLE = `
# digits and shapes
0️⃣ 0; 1️⃣ 1; 2️⃣ 2; 3️⃣ 3; 4️⃣ 4; 5️⃣ 5; 6️⃣ 6; 7️⃣ 7; 8️⃣ 8; 9️⃣ 9; 🟥 square
⚪ circle|ellipse; ❤️ heart; 🔺 triangle; ⭐ star
# fish and the sea
🦈 shark|hammerhead; 🐠 goldfish|rock beauty|anemone fish|lionfish|clownfish|tropical fish
🐟 tench|ray|stingray|eel|coho|salmon|sturgeon|gar|barracouta|fish|trout|carp|tuna|cod|flatfish
🐡 puffer|pufferfish|blowfish; 🐋 whale; 🐬 orca|killer whale|dolphin|porpoise
🦭 seal|sea lion|dugong|walrus|manatee; 🪼 jellyfish; 🪸 coral|anemone|sea anemone|coral reef|reef
🐚 conch|chiton|nautilus|shell|trilobite|clam; 🦀 crab; 🦞 lobster|crayfish; 🦐 shrimp|isopod|prawn; 🐙 octopus
🦑 squid; 🦪 oyster; ⭐ starfish|sea star|sea urchin; 🥒 sea cucumber|cucumber|zucchini|courgette
# birds
🐓 cock|rooster; 🐔 hen|chicken|prairie chicken|fowl
🐦 bird|ostrich|brambling|goldfinch|finch|junco|bunting|robin|bulbul|jay|chickadee|ouzel|kite
🐦 bee eater|coucal|jacamar|bustard|turnstone|sandpiper|redshank|dowitcher|oystercatcher|limpkin
🐦 gallinule|coot|bittern|hummingbird|sparrow|swallow|wren; 🐦‍⬛ magpie|crow|raven|blackbird
🦅 eagle|vulture|hawk|falcon; 🦉 owl; 🦚 peacock; 🦃 turkey|grouse|ptarmigan|quail|partridge
🦜 parrot|macaw|cockatoo|lorikeet|african grey|hornbill|toucan; 🦆 duck|drake|merganser; 🪿 goose
🦢 swan|stork|heron|egret|crane|pelican|albatross|spoonbill; 🦩 flamingo; 🐧 penguin; 🕊️ dove|pigeon
# amphibians and reptiles
🦎 lizard|salamander|newt|eft|axolotl|gecko|iguana|chameleon|anole|whiptail|agama|gila monster
🐉 dragon|komodo dragon; 🐸 frog|toad|bullfrog; 🐢 turtle|terrapin|loggerhead|tortoise; 🐊 crocodile|alligator
🦕 triceratops|dinosaur
🐍 snake|kingsnake|boa constrictor|python|cobra|mamba|viper|diamondback|sidewinder|rattlesnake
# insects and spiders
🕷️ spider|harvestman|black widow|tarantula|tick; 🕸️ web|spider web; 🦂 scorpion
🐛 centipede|caterpillar|millipede; 🪱 worm|flatworm|nematode; 🐌 snail; 🐌 slug; 🪲 beetle|weevil
🐞 ladybug|ladybird; 🪰 fly|lacewing; 🐝 bee|wasp|hornet; 🐜 ant
🦗 grasshopper|cricket|walking stick|mantis|cicada|leafhopper; 🪳 cockroach
🦋 butterfly|admiral|ringlet|monarch|lycaenid|moth; 🪰 dragonfly|damselfly; 🦟 mosquito
# dogs and their relatives
🐶 dog|spaniel|pekinese|shih tzu|papillon|chihuahua|pug|pomeranian|maltese|affenpinscher|maltese dog
🐶 lhasa|chow|keeshond|samoyed|basenji|puppy
🐕 terrier|hound|ridgeback|basset|beagle|bloodhound|bluetick|coonhound|foxhound|redbone|borzoi
🐕 wolfhound|greyhound|whippet|elkhound|otterhound|saluki|deerhound|weimaraner|bullterrier|airedale
🐕 cairn|dandie dinmont|boston bull|schnauzer|retriever|pointer|vizsla|setter|clumber|springer
🐕 kuvasz|schipperke|groenendael|malinois|briard|kelpie|komondor|sheepdog|collie|bouvier
🐕 bouvier des flandres|rottweiler|shepherd|doberman|pinscher|appenzeller|entlebucher|boxer|mastiff
🐕 bulldog|great dane|saint bernard|husky|malamute|dalmatian|leonberg|newfoundland|great pyrenees
🐕 griffon|pembroke|corgi|mexican hairless|eskimo dog|mountain dog; 🐩 poodle
🐺 wolf|coyote|dingo|dhole|hunting dog|hyena; 🦊 fox
# cats and other mammals
🐱 cat|tabby|siamese|kitten; 🐆 leopard|jaguar|cheetah|cougar|lynx|panther|puma; 🦁 lion; 🐯 tiger; 🐻 bear
🐻‍❄️ polar bear|ice bear; 🧸 teddy|teddy bear; 🦡 mongoose|meerkat|badger|weasel|mink|polecat|ferret|wombat
🐘 elephant|tusker; 🦔 echidna|hedgehog|porcupine; 🦫 platypus|beaver|marmot; 🦘 kangaroo|wallaby; 🐨 koala
🐰 rabbit|hare|angora; 🐹 hamster|guinea pig; 🐭 rat|mouse; 🐿️ squirrel|chipmunk; 🐴 horse|sorrel|pony; 🦓 zebra
🐷 pig|hog|piglet; 🐗 boar|warthog; 🦛 hippopotamus|hippo; 🐂 ox|bull; 🐮 cow; 🐃 buffalo; 🦬 bison; 🐏 ram|bighorn
🐑 sheep; 🐐 ibex|goat; 🦌 deer|hartebeest|impala|gazelle|antelope|moose; 🐪 camel; 🦙 llama; 🦦 otter; 🦨 skunk
🦥 sloth; 🦣 armadillo|mammoth; 🦧 orangutan; 🦍 gorilla
🐵 chimpanzee|gibbon|siamang|guenon|patas|baboon|macaque|langur|colobus|monkey|marmoset|capuchin
🐵 titi|lemur|madagascar cat|indri; 🐼 panda; 🦝 raccoon|red panda|lesser panda; 🦒 giraffe; 🦏 rhinoceros|rhino
🦇 bat
# music
🪗 accordion; 🎸 guitar|acoustic guitar|electric guitar; 🪕 banjo; 🎻 cello|violin|fiddle
🎺 cornet|trumpet|trombone|french horn; 🎷 sax|saxophone|bassoon|oboe
🥁 drum|drumstick|steel drum|gong|marimba|maraca|chime; 🪈 flute|panpipe|ocarina|harmonica|whistle
🎹 piano|grand piano|organ|upright; 🎼 harp; 🎤 microphone; 🔊 loudspeaker|speaker
🎵 pick|ipod|cd player|cassette player|tape player|music
# clothes
👗 dress|gown|abaya|overskirt|hoopskirt|miniskirt|sarong|stole; 🎓 academic gown|mortarboard; 🥼 lab coat
🧥 coat|fur coat|trench coat|cloak|poncho|cardigan|vestment|jacket|robe; 👕 jersey|shirt|t shirt|top|tee shirt
🧶 pullover|sweatshirt|sweater|wool|velvet|knot; 👖 jean|trouser|pant; 🩳 swimming trunk|trunks|shorts
🩱 maillot|swimsuit; 👙 bikini|brassiere; 👔 tie|bow tie|windsor tie|bolo tie|suit; 👘 kimono
🎽 bib|apron|bulletproof vest|vest|breastplate|cuirass|chain mail|military uniform
🛌 pajama|sleeping bag|quilt|four poster|bed; 🧦 sock|stocking|christmas stocking; 🧤 mitten|glove
👟 shoe|running shoe|sneaker; 🥾 boot|cowboy boot|ankle boot; 👡 sandal|clog; 👞 loafer
👒 bonnet|hat|sombrero|shower cap|bathing cap; 🤠 cowboy hat
🪖 helmet|crash helmet|football helmet|pickelhaube|bearskin; 💇 wig|hair slide|hair spray|hairdresser
👓 sunglass|glass|spectacle; 🕶️ sunglasses; 😷 mask|ski mask|gasmask|oxygen mask|respirator; 🥽 snorkel
👜 purse|bag|handbag|mailbag|plastic bag; 🎒 backpack; 👛 wallet; ☂️ umbrella; 📿 necklace
🪢 buckle|seat belt|belt|holster|scabbard|lasso; 🪶 feather boa|quill|wing; 🧷 safety pin|diaper
💄 lipstick|face powder; 🧴 lotion|sunscreen|soap dispenser|perfume
🧻 paper towel|toilet tissue|toilet paper|handkerchief; 🩹 band aid; 🪡 thimble|sewing machine|spindle|needle
# vehicles
✈️ airplane|aeroplane|airliner|plane|aircraft|warplane|military plane|jet; 🎈 balloon|airship; 🪂 parachute
🚀 missile|projectile|space shuttle|rocket; 🚑 ambulance; 🚒 fire engine|fire truck; 🚓 police van|police car
🚕 cab|taxi; 🏎️ racer|race car|go kart|sports car
🚗 car|automobile|wagon|convertible|jeep|limousine|minivan|model t|amphibian|golfcart|car wheel
🚗 car mirror|beach wagon; 🚌 bus|minibus|school bus|trolleybus|coach
🚐 van|moving van|recreational vehicle|mobile home; 🛻 pickup|tow truck
🚚 truck|garbage truck|trailer truck|lorry|snowplow
🚜 tractor|harvester|thresher|plow|half track|lawn mower|mower|forklift
🚲 bicycle|tandem|mountain bike|tricycle|unicycle|bike; 🛵 moped|motor scooter|scooter|motorcycle
🚂 locomotive|steam locomotive|electric locomotive; 🚄 bullet train|train
🚃 freight car|passenger car|streetcar|tram; 🛷 bobsled|dogsled|sled|snowmobile
🛺 jinrikisha|rickshaw|horse cart|oxcart|cart|carriage
🚢 ship|container ship|liner|aircraft carrier|fireboat|wreck|tanker
⛵ schooner|yawl|catamaran|trimaran|sailboat|yacht; 🚤 speedboat|lifeboat|boat|gondola
🛶 canoe|paddle|paddlewheel|kayak; 🏴‍☠️ pirate; 🤿 submarine|scuba diver|diver
🛒 shopping cart|shopping basket|barrow|wheelbarrow; ⛽ gas pump; 🅿️ parking meter; 🛞 wheel|disk brake|tyre
🛡️ shield|tank armor; 🪖 tank|army tank
# buildings and places
⛪ church|altar|monastery|vault|bell cote; 🕌 mosque|stupa|dome|minaret; 🏰 castle|palace
🏛️ triumphal arch|megalith|pedestal|obelisk|totem pole|maypole|arch|planetarium
🗼 beacon|lighthouse|water tower|tower|drilling platform
🏠 house|barn|boathouse|cliff dwelling|thatch|tile roof|roof|patio|lumbermill|bannister; ⛺ tent|yurt|mountain tent
🏪 shop|store|bakery|barbershop|bookshop|butcher shop|confectionery|grocery store|shoe shop
🏪 tobacco shop|toyshop|restaurant|market; 🎭 cinema|theater|theater curtain|stage|theatre
📚 library|bookcase|book|comic book|book jacket
🌉 bridge|viaduct|suspension bridge|steel arch bridge|pier|dock|dam|breakwater; 🏗️ crane machine|scaffold
🪴 greenhouse|pot|flowerpot|vase
🚧 fence|picket fence|worm fence|chainlink fence|turnstile|grille|barrier|stone wall|wall
🚪 door|sliding door|shoji|wardrobe|doormat|closet
🪟 window|window screen|window shade|shower curtain|curtain|fire screen; ⛲ fountain; 🎠 carousel|swing; 🚔 prison
🕳️ manhole cover|maze; 🚦 traffic light|stoplight
🪧 street sign|sign|scoreboard|brass|web site|website|menu|envelope|packet; 🏁 flagpole|flag|pole
🐝 apiary|honeycomb; 🐦 birdhouse; ⛰️ alp|mountain|cliff|valley|promontory
🏖️ seashore|sandbar|lakeside|beach|coast; 🌋 volcano|geyser; 🫧 bubble|bubbles
# furniture and household
🪑 chair|barber chair|folding chair|rocking chair|throne|park bench|bench
🛋️ couch|studio couch|sofa|pillow|prayer rug; 🛏️ cradle|crib|bassinet|stretcher
🗄️ chest|chiffonier|china cabinet|desk|file|medicine chest|entertainment center|cabinet
🗄️ dining table|table|plate rack; 💡 lamp|table lamp|lampshade|spotlight|switch; 🕯️ candle|torch
🎃 jack o lantern; 🛁 bathtub|tub|bath towel; 🚽 toilet seat|toilet|plunger; 🚰 washbasin|bucket|rain barrel|barrel
🧺 hamper|washer|dishwasher|basket|dishrag|washing machine; 🧹 broom|swab|vacuum|mop; 🗑️ ashcan|trash can
🪒 hand blower|razor; 🌀 electric fan|fan|coil|pinwheel|potter wheel|potter s wheel|space heater|radiator
🧊 refrigerator|freezer; 🔥 stove|fireplace|matchstick|lighter|fire; 🍞 toaster|french loaf|dough|bread|loaf
🍳 frying pan|wok|waffle iron|rotisserie|microwave|oven
🍲 pot dish|caldron|crock pot|dutch oven|hot pot|soup bowl|consomme|soup|stew; 🥣 mixing bowl|bowl|petri dish|mortar
🥄 ladle|spatula|wooden spoon|spoon|strainer; 🍽️ plate|tray|dish; 🔪 cleaver|letter opener|knife; 🧂 saltshaker
🥫 can|milk can|can opener|oil filter; ☕ coffee mug|cup|espresso|coffeepot|espresso maker|measuring cup|mug
🫖 teapot; 🍶 water jug|pitcher|whiskey jug|jug; 🍼 nipple|bottle|water bottle|pop bottle|pill bottle|bottlecap
🍺 beer bottle|beer glass|beer; 🍷 wine bottle|goblet|red wine|wine|corkscrew; 🍸 cocktail shaker|cocktail
👕 iron|clothes iron
# tools, machines and instruments
🔨 hammer|nail; 🪓 hatchet|axe; 🪛 screw|screwdriver; 🪚 chain saw|saw|carpenter s kit|plane tool|power drill|drill
🔧 tool kit|wrench|hook|reel|shovel; ⛓️ chain; 🔒 padlock|combination lock|safe|lock; 🎣 fishing rod
🧭 compass|magnetic compass; 🔬 microscope|loupe; 🔭 radio telescope|telescope|binocular|binoculars|solar dish
📡 satellite dish|modem; 📷 camera|reflex camera|polaroid camera|lens cap|tripod
📽️ projector|home theater|slide projector; 📺 television|monitor|screen|oscilloscope; 📻 radio; 📼 cassette
💾 hard disc|disk; 💻 laptop|notebook|desktop computer|hand held computer|computer
⌨️ computer keyboard|typewriter keyboard|space bar|keyboard; 🖱️ computer mouse; 🖨️ printer|photocopier
🕹️ joystick|remote control; ☎️ telephone|dial telephone|pay phone|phone; 📱 cellular telephone|mobile phone
⏰ clock|analog clock|wall clock|digital clock; ⌚ watch|digital watch|stopwatch; ⏳ hourglass|sundial
🌡️ barometer|thermometer; 🧮 abacus|slide rule; 📏 rule|ruler; ⚖️ scale; 🚗 odometer; 💉 syringe|needle medical
🩺 stethoscope|crutch|neck brace; 🧪 beaker|test tube; 🖊️ ballpoint|fountain pen|pen
✏️ pencil box|pencil sharpener|pencil|rubber eraser; 🖌️ paintbrush; 📒 binder; 📦 carton|crate|box; 📮 mailbox
🐷 piggy bank; 🏧 cash machine|vending machine|slot; 🔫 revolver|pistol; 🪖 rifle|assault rifle|cannon|guillotine
🏹 bow|arrow; 🪤 mousetrap; 🧩 jigsaw puzzle|crossword puzzle|puzzle; 🐕 muzzle; 🥅 mosquito net|net
# sport and games
⚾ baseball|ballplayer; 🏀 basketball; ⚽ soccer ball|football; 🏐 volleyball; 🎾 tennis ball|racket; 🏉 rugby ball
⛳ golf ball; 🏓 ping pong ball; 🏏 croquet ball; 🏒 puck; 🎱 pool table; 🏋️ barbell|dumbbell|weight
🥊 punching bag; 🤸 balance beam|horizontal bar|parallel bars|knee pad; 🎿 ski
# food and plants
🥑 guacamole|avocado; 🍰 trifle|cake; 🍨 ice cream; 🍭 ice lolly|lollipop; 🥯 bagel; 🥨 pretzel
🍔 cheeseburger|hamburger; 🌭 hotdog|hot dog; 🥔 mashed potato|potato; 🥬 head cabbage|cabbage|artichoke|cardoon
🥦 broccoli|cauliflower; 🎃 spaghetti squash|acorn squash|butternut squash|squash|pumpkin; 🫑 bell pepper|pepper
🍄 mushroom|fungus|agaric|gyromitra|stinkhorn|earthstar|hen of the woods|bolete|coral fungus
🍏 granny smith|apple|custard apple; 🍓 strawberry; 🍊 orange; 🍋 lemon; 🫐 fig|blueberry|rose hip|hip; 🍍 pineapple
🍌 banana; 🍈 jackfruit|melon; 🍎 pomegranate; 🌾 hay|ear|wheat; 🍝 carbonara|spaghetti|pasta
🍫 chocolate sauce|chocolate; 🥩 meat loaf|steak; 🍕 pizza; 🥧 potpie|pie; 🌯 burrito; 🥛 eggnog|milk
🌼 daisy|rapeseed|flower|yellow lady s slipper; 🌽 corn; 🌰 acorn|buckeye|chestnut; 🌹 rose; 🌷 tulip
🌳 tree|oak|maple|willow; 🌴 palm
# people
🤵 groom|bridegroom; 👰 bride; 👶 baby; 👦 boy; 👧 girl; 👨 man; 👩 woman; 🧑 person|people
`

/** Each emoji with a phrase that it stands for. */
export const EMOJI_PHRASES: readonly (readonly [emoji: string, phrase: string])[] = TABLE.split("\n")
  .filter((line) => line && !line.startsWith("#"))
  .flatMap((line) => line.split("; "))
  .flatMap((entry) => {
    const space = entry.indexOf(" ")
    return entry
      .slice(space + 1)
      .split("|")
      .map((phrase) => [entry.slice(0, space), phrase] as const)
  })
