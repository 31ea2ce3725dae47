"""Words for the 80 COCO categories in English captions; the table used by `captionkit.metrics.chair`.

Categories and their members are those of COCO's instance annotations (Lin et al. 2014, arXiv 1405.0312): a stool is a
chair, a monitor a tv, a burger a sandwich. Mapping words to them by lists of synonyms, two words before one, follows
Rohrbach et al. 2018 (arXiv 1809.02156); the lists here were made for captionkit, from captions of COCO and Flickr8k and
by reading the errors.

A phrase is singular, or in its fixed form; regular plurals follow by rule (`plural` in chair.py). Hyphens are spaces
("hot-dog").
"""

from __future__ import annotations

#: Object -> phrases that name it, in candidates and in references.
NAMED = {
    "person": """
        person, people, man, men, woman, women, boy, girl, child, children, kid, guy, lady, gentleman, male, female,
        teen, teenager, youth, youngster, toddler, infant, human, adult, someone, somebody, baby, mother, father, mom,
        mommy, mum, dad, daddy, parent, grandmother, grandfather, grandma, grandpa, son, daughter, brother, sister,
        husband, wife, bride, groom, friend, player, batter, hitter, baseball pitcher, catcher, umpire, referee,
        outfielder, infielder, goalie, goalkeeper, teammate, athlete, surfer, skier, snowboarder, skateboarder,
        skater, rider, biker, cyclist, bicyclist, motorcyclist, swimmer, runner, jogger, hiker, climber, golfer,
        bowler, wrestler, gymnast, dancer, diver, windsurfer, boarder, jockey, chef, waiter, waitress, bartender,
        baker, butcher, officer, policeman, policemen, cop, fireman, firemen, firefighter, soldier, sailor, worker,
        employee, businessman, businessmen, businesswoman, businesswomen, doctor, nurse, dentist, teacher, student,
        schoolgirl, schoolboy, farmer, fisherman, fishermen, shepherd, cowboy, cowgirl, driver, passenger, commuter,
        pedestrian, tourist, traveler, traveller, shopper, customer, vendor, spectator, onlooker, bystander, crowd,
        audience, performer, musician, guitarist, drummer, singer, photographer, artist, actor, actress, clown, santa
        claus, king, priest, nun, monk, skiier, snowboader, paraglider, cheerleader, workman, workmen, serviceman,
        servicemen, sportsman, horseman, horsemen, lifeguard, barber, mechanic, carpenter, tennis pro, patron,
        kayaker, boater, rower, paddler, individual, citizen, racer, rollerblader, roller blader, skydiver, snorkeler,
        parasailer, kite surfer, kitesurfer, kite boarder, kiteboarder, wakeboarder, opponent, ballplayer, ball
        player, villager, ballerina, acrobat, horse rider, pilot
        """,
    "bicycle": "bicycle, bycicle, pushbike, mountain bike, tandem bike",
    "car": "car, automobile, sedan, taxi, taxicab, cab, hatchback, minivan, limousine, limo, sports car, police car",
    "motorcycle": """
        motorcycle, motorbike, motor bike, motor cycle, motorcylce, motercycle, motocycle, moped, motor scooter, dirt
        bike, harley, vespa
        """,
    "airplane": """
        airplane, plane, aeroplane, air plane, jet, jetliner, airliner, aircraft, jumbo jet, jet plane, jet liner,
        fighter jet, biplane, seaplane, warplane, air liner, passenger plane, passenger jet, passenger airplane,
        passenger airliner, passenger aircraft, passenger jetliner
        """,
    "bus": "bus, minibus, school bus, greyhound bus, double decker, passenger bus, busses",
    "train": """
        train, locomotive, steam engine, train engine, train car, railcar, rail car, railroad car, railway car, subway
        car, subway train, freight car, passenger train, monorail, passenger car
        """,
    "truck": """
        truck, firetruck, fire engine, lorry, lorries, semi, semi truck, tractor trailer, pickup truck, pick up truck,
        big rig, 18 wheeler, tow truck, dump truck, food truck, garbage truck, cement mixer, eighteen wheeler
        """,
    "boat": """
        boat, ship, sailboat, sail boat, canoe, kayak, ferry, yacht, rowboat, row boat, speedboat, speed boat,
        motorboat, motor boat, tugboat, tug boat, barge, dinghy, raft, gondola boat, cruise ship, catamaran,
        houseboat, house boat, riverboat, fishing boat, cruise liner, lifeboat, pontoon, passenger ferry, passenger
        boat, passenger ship
        """,
    "traffic light": """
        traffic light, traffic signal, stop light, stoplight, trafficlight, traffic lamp, street signal, signal light
        """,
    "fire hydrant": "fire hydrant, hydrant, firehydrant, fire plug",
    "stop sign": "stop sign, stopsign",
    "parking meter": "parking meter, parking metre, park meter",
    "bench": "bench, park bench",
    "bird": """
        bird, duck, duckling, goose, geese, gosling, seagull, sea gull, gull, pigeon, parrot, parakeet, cockatoo,
        macaw, owl, swan, rooster, hen, eagle, hawk, falcon, vulture, crow, raven, ostrich, emu, flamingo, pelican,
        penguin, peacock, sparrow, hummingbird, heron, egret, stork, finch, dove, woodpecker, blackbird, bluebird,
        blue jay, puffin, toucan, cormorant, sandpiper, songbird, waterfowl
        """,
    "cat": "cat, kitten, kitty, feline, tabby, tomcat",
    "dog": """
        dog, puppy, pup, doggy, doggie, canine, mutt, hound, poodle, terrier, beagle, dachshund, chihuahua, corgi,
        collie, pug, dalmatian, dalmation, rottweiler, greyhound, retriever, labrador, spaniel, schnauzer, doberman,
        mastiff, great dane, pomeranian, shih tzu, german shepherd, german shephard, pit bull, pitbull, bulldog, bull
        dog, sheepdog, sheep dog, lapdog, yorkie, husky dog, st bernard, st. bernard, saint bernard
        """,
    "horse": "horse, pony, foal, colt, stallion, mare, bronco, horseback, horse back, horse drawn",
    "sheep": "sheep, lamb, ewe",
    "cow": "cow, cattle, bull, calf, calves, ox, oxen, heifer, longhorn, bovine, dairy cow",
    "elephant": "elephant, elephent",
    "bear": "polar bear, grizzly, grizzly bear, black bear, panda, panda bear, bear cub",
    "zebra": "zebra",
    "giraffe": "giraffe, girafe, giraff, giraffee",
    "backpack": "backpack, back pack, rucksack, knapsack, bookbag, book bag, back bag",
    "umbrella": "umbrella, parasol, umberella, umbrealla",
    "handbag": "handbag, hand bag, purse, pocketbook, tote bag, shoulder bag",
    "tie": "tie, necktie, neck tie, bow tie, bowtie",
    "suitcase": "suitcase, suit case, luggage, suitecase, luggage bag",
    "frisbee": "frisbee, frisbie, frizbee, freesbee, frisby, frizbe, frisbe, flying disc, flying disk",
    "skis": "skis, pair of skis, snow skis, snow ski, skiis",
    "snowboard": "snowboard, snow board",
    "sports ball": """
        ball, soccer ball, tennis ball, basket ball, volleyball, volley ball, beach ball, bowling ball, soccerball,
        softball, baseballs, footballs, basketballs, golf ball, rugby ball, cricket ball, sports ball
        """,
    "kite": "kite",
    "baseball bat": "baseball bat, bat, basball bat",
    "baseball glove": """
        baseball glove, baseball mitt, catcher 's mitt, catchers mitt, catcher mitt, catcher 's glove, mitt, base
        glove
        """,
    "skateboard": "skateboard, skate board, skatebaord, sketeboard, skatboard",
    "surfboard": """
        surfboard, surf board, boogie board, boogieboard, body board, bodyboard, longboard, wakeboard, wake board,
        paddle board, paddleboard, surfboad
        """,
    "tennis racket": """
        tennis racket, tennis racquet, tennis raquet, tennis rackett, tennis racquette, racket, racquet, raquet,
        tennis bat, racquette
        """,
    "bottle": "bottle, water bottle, wine bottle, beer bottle",
    "wine glass": """
        wine glass, wineglass, glass of wine, glasses of wine, glass of red wine, glass of white wine, champagne
        glass, champagne flute, wine goblet, glasses of red wine, glasses of white wine, glass of champagne, wine
        filled glass
        """,
    "cup": "cup, mug, teacup, tea cup, coffee cup, coffee mug, cup of coffee, cup of tea, mug of coffee",
    "fork": "fork",
    "knife": "knife, knives, butcher knife, pocket knife",
    "spoon": "spoon, teaspoon, tablespoon",
    "bowl": "bowl",
    "banana": "banana, bannana",
    "apple": "apple",
    "sandwich": """
        sandwich, sandwhich, sandwitch, sandwhiches, burger, hamburger, cheeseburger, panini, hoagie, blt, sub
        sandwich, grilled cheese
        """,
    "orange": """
        oranges, orange slice, slice of orange, slices of orange, sliced orange, peeled orange, orange fruit, orange
        wedge, orange segment, orange peel, mandarin orange, half an orange, piece of orange, pieces of orange
        """,
    "broccoli": "broccoli, brocolli, broccolli, brocoli, broccili, brocolis, broccoli floret",
    "carrot": "carrot, baby carrot, carots, carrott",
    "hot dog": "hot dog, hotdog, chili dog, chilli dog, frankfurter, hot dog bun, corn dog, corndog",
    "pizza": "pizza, pizza pie, pepperoni pizza, cheese pizza, slice of pizza",
    "donut": "donut, doughnut, dough nut, do nut",
    "cake": "cake, cupcake, cup cake, cheesecake, cheese cake, shortcake, birthday cake, wedding cake, carrot cake",
    "chair": """
        chair, armchair, arm chair, stool, bar stool, barstool, rocking chair, lawn chair, beach chair, office chair,
        lounge chair, recliner, high chair, highchair
        """,
    "couch": "couch, sofa, loveseat, love seat, futon, settee",
    "potted plant": """
        potted plant, house plant, houseplant, plant in a pot, plants in pots, potted flower, potted tree, flower pot,
        flowerpot, plant pot, pot of flowers, potted palm, potted fern, potted cactus, flowers in a pot
        """,
    "bed": "bed, bunk bed, bunkbed",
    "dining table": """
        table, dining table, dinner table, kitchen table, picnic table, coffee table, tabletop, table top, desk, end
        table, side table, dining room table, wooden table
        """,
    "toilet": "toilet, commode, toilet bowl, toilet seat, toilet tank, toilet lid, urinal, potty, toliet, toilette",
    "tv": """
        tv, television, t.v, t.v., televison, tv set, television set, tv screen, television screen, flat screen,
        flatscreen, flat screen tv, monitor, computer monitor, computer screen
        """,
    "laptop": "laptop, lap top, laptop computer, lap top computer, macbook, netbook, notebook computer, labtop",
    "mouse": "mouse, computer mouse, mice",
    "remote": """
        remote, remote control, remote controller, tv remote, television remote, wii remote, wii controller, game
        controller, video game controller, nintendo wii controller, wiimote, nintendo wii remote, gaming controller,
        wii game controller, controller
        """,
    "keyboard": "keyboard, key board, computer keyboard, computer key board",
    "cell phone": """
        cell phone, cellphone, phone, smartphone, smart phone, mobile phone, iphone, flip phone, mobile device,
        cellular phone, telephone, celphone
        """,
    "microwave": "microwave, microwave oven",
    "oven": "oven, stove, stovetop, stove top, stove top oven, cooker",
    "toaster": "toaster",
    "sink": "sink, washbasin, wash basin",
    "refrigerator": "refrigerator, fridge, refridgerator, refrigirator, refridgerater, freezer",
    "book": "book, textbook, cookbook, cook book, comic book, paperback, text book, story book",
    "clock": "clock, clock tower, clocktower, alarm clock, clock face, wall clock, grandfather clock",
    "vase": "vase, flower vase",
    "scissors": "scissors, pair of scissors, scissor, shears, sissors, scizzors",
    "teddy bear": "teddy bear, teddy, teddies, stuffed bear, stuffed teddy bear, teddybear, plush bear, toy bear",
    "hair drier": "hair drier, hair dryer, hairdryer, hairdrier, blow dryer, blow drier, blowdryer",
    "toothbrush": "toothbrush, tooth brush, electric toothbrush",
}

#: Phrases that may mean several objects: hallucinated only if none of them is there; reported as the first.
EITHER = {
    "bicycle, motorcycle": "bike",
    "car, truck": "suv, jeep, pickup",
    "car, truck, bus": "van",
    "car, truck, bus, motorcycle": "vehicle",
    "bus, train": "trolley, streetcar, street car, cable car, tram, trolley car",
    "bear, teddy bear": "bear, brown bear",
    "laptop, tv, keyboard": "computer, desktop, desktop computer, pc",
    "oven, toaster": "toaster oven",
}

#: References only: phrases that may mean the object, or imply it. Never counted as a hallucination.
POSSIBLE = {
    "person": """
        hand, arm, finger, foot, feet, leg, lap, he, she, him, her, his, hers, himself, herself, who, everyone,
        everybody, anyone, nobody, family, couple, group, team, parade, herder, crew, police, cook, mannequin, guard,
        engineer, conductor, operator, owner, trainer, staff, statue, sculpture, doll, figure, figurine, selfie,
        portrait, surfing, skiing, snowboarding, skateboarding, riding, marching, adult, participant, competitor,
        contestant, womans, mans, wman, womam, persons, being held, guest, resident, native, civilian, fans, twins
        """,
    "bicycle": "cyclist, bicyclist, biker, cycling, biking, bicycling, tricycle, pedal, cycle",
    "car": """
        traffic, driving, dashboard, windshield, rear view mirror, side mirror, rearview mirror, convertible, wagon,
        cadillac, ford, mercedes, bmw, honda, toyota, chevy, mustang, station wagon, beetle, volkswagen, mini cooper,
        hearse, coupe, vehicle
        """,
    "motorcycle": "motorcyclist, biker, cycle, scooter, chopper, yamaha, honda, motocross, sidecar, motor",
    "airplane": """
        air show, airshow, glider, propeller, cockpit, boeing, 747, airline, bomber, airbus, jet engine, airforce,
        airway
        """,
    "bus": "coach, bus driver, shuttle, vehicle, transit, double deck",
    "train": "subway, caboose, boxcar, box car, train conductor, engine, metro, train set, coal car",
    "truck": "trailer, tractor, vehicle, van, camper, rv, bulldozer, semi trailer, fire rescue, ambulance",
    "boat": """
        vessel, harbor, harbour, marina, sailing, jet ski, gondola, watercraft, boating, kayaking, rowing, paddling,
        canoeing, boatyard, boat dock, boat ramp, schooner, fleet, regatta, paddle boat
        """,
    "traffic light": """
        red light, green light, yellow light, stop lamp, signal, walk signal, crosswalk signal, intersection light
        """,
    "fire hydrant": "fire pump, fireplug",
    "stop sign": "says stop, reads stop, saying stop, reading stop, word stop",
    "parking meter": "meter",
    "bench": "seat, seating, pew, bleacher, dugout",
    "bird": """
        crane, chicken, turkey, robin, cardinal, ducks, fowl, poultry, chick, bird feeder, birdfeeder, bird cage,
        birdcage, beak, nest, feathered, birdhouse, bird house, flock, mallard
        """,
    "cat": "siamese, calico, cat bed",
    "dog": "lab, husky, boxer, pooch, dog bed, dog park, leash, shepherd dog",
    "horse": "jockey, equestrian, mule, donkey, carriage, rodeo, carousel, horse race",
    "sheep": "ram, goat, flock, shepherd",
    "cow": "steer, buffalo, bison, yak, livestock, water buffalo",
    "bear": "grizzlies, cub, bear",
    "backpack": "pack, bag, bags, back packing, backpacker, backpacking, bookbags",
    "umbrella": "canopy, sun shade",
    "handbag": "bag, tote, satchel, bags, clutch",
    "tie": "tux, tuxedo, neck ties",
    "suitcase": "bag, bags, baggage, briefcase, trunk, luggages, duffel, carry on, suit cases",
    "frisbee": "disc, disk, ultimate, frizbees, fris bee, frisbee golf",
    "skis": "ski, skiing, skier, skied, cross country, slalom, skii, skiers, ski slope, ski lift, ski jump, skiier",
    "snowboard": "snowboarding, snowboarder, snowboarded, board, snow boarding, snow boarder, snowboader",
    "sports ball": """
        pitch, serve, kickball, swing, swinging, batter, hitter, croquet, lacrosse, pool table, billiards, pitching,
        pitcher, playing tennis, playing baseball, playing soccer, playing football, playing basketball, playing
        rugby, playing golf, playing cricket, playing catch, playing volleyball, game of tennis, game of soccer, game
        of baseball, game of basketball, game of football, game of catch, soccer game, soccer match, plays tennis,
        plays soccer, plays baseball, play tennis, play soccer, play baseball, play basketball, play football
        """,
    "kite": "kite surfing, kitesurfing, kite boarding, kiteboarding, kite board, kite surfer, parasail, parasailing",
    "baseball bat": "batter, batting, at bat, hitter, swinging, swing, batsman, cricket, up to bat",
    "baseball glove": "glove, catcher, outfielder, pitcher",
    "skateboard": "skateboarding, skateboarder, board, skating, skateboarded, skate boarding, skate boarder, skater",
    "surfboard": """
        surfing, surfer, board, surf, kite surfing, wakeboarding, boogie boarding, paddle boarding, wind surfing,
        surfs, windsurfing, windsurfer, wave boarding, body boarding, wake boarding, kitesurfing, wind surfer,
        wakeboarder
        """,
    "tennis racket": """
        badminton, serve, tennis player, tennis match, racquetball, ping pong paddle, playing tennis, plays tennis,
        play tennis, game of tennis, tennis game
        """,
    "bottle": """
        wine, beer, beverage, drink, condiment, ketchup, soda, lotion, shampoo, liquor, alcohol, container, jar
        """,
    "wine glass": "wine, glass, goblet, drink, champagne, beverage, glassware, toast, stemware",
    "cup": "glass, coffee, tea, latte, cappuccino, drink, beverage, espresso, tumbler, juice, container",
    "fork": "silverware, utensil, cutlery, flatware, place setting, table setting, silver ware",
    "knife": """
        silverware, utensil, cutlery, flatware, blade, cutting, place setting, table setting, silver ware, sword
        """,
    "spoon": "silverware, utensil, cutlery, flatware, ladle, place setting, table setting, silver ware, wooden spoon",
    "bowl": "dish, dishes, basin, soup, cereal, container, dishware",
    "banana": "bananna, plantain, banana tree",
    "sandwich": "sub, wrap, burrito, bagel, gyro, patty, sliders, slider",
    "orange": "citrus, tangerine, clementine, mandarin, navel, satsuma",
    "broccoli": "brocholli, florets, floret, brocclie",
    "hot dog": "sausage, bratwurst, wiener, frank, brat, foot long, weiner",
    "pizza": "flatbread, pie, pepperoni, calzone, pizza box, pizzeria, pizza oven, pizza cutter, pizza pan",
    "donut": "pastry, pastries, dessert, munchkin, doughnut shop, donut shop, krispy kreme, dunkin donuts, glazed",
    "cake": "dessert, pastry, pastries, brownie, frosting, icing, tart, torte, muffin, pie, tiramisu",
    "chair": "seat, seating, furniture, wheelchair, throne, sitting area, dining set, rocker",
    "couch": "furniture, sectional, sofa bed, seating, sitting area, living room set, recliner, divan, chaise",
    "potted plant": "plant, fern, cactus, pot, planter, bonsai, shrub, ivy",
    "bed": "mattress, cot, crib, bedding, bedspread, comforter, bedroom, bunk, headboard",
    "dining table": """
        counter, tablecloth, table cloth, countertop, counter top, place setting, table setting, dining room,
        placemat, furniture, dinner setting, desktop, picnic, dining set, dining area, workstation, nightstand
        """,
    "toilet": "bathroom stall, latrine, outhouse, lavatory, bidet, porta potty",
    "tv": """
        screen, computer, desktop, display, desktop computer, projector, wii, video game, pc, entertainment center
        """,
    "laptop": "notebook",
    "mouse": "mouse pad, mousepad, computer accessory, computer equipment, desktop computer",
    "remote": "wii, nintendo, video game, gaming, joystick, game system, game console",
    "keyboard": "typing, piano, laptop, keypad",
    "cell phone": "cell, texting, blackberry, text, device, talking on, nokia, android",
    "microwave": "kitchen appliance, appliance",
    "oven": "range, burner, kitchen appliance, appliance",
    "toaster": "toasting",
    "sink": "basin, faucet, vanity, lavatory, wash bowl, tap",
    "refrigerator": "kitchen appliance, appliance, refrigerated, ice box, icebox, refrig",
    "book": "reading, magazine, novel, library, bookshelf, bookcase, notebook, pamphlet, bookshelves, manual, album",
    "clock": "big ben, pocket watch, timepiece, o'clock, sundial, the time, telling time, wrist watch, wristwatch",
    "vase": """
        pot, jar, pitcher, urn, jug, container, planter, bouquet, pottery, flower arrangement, flower holder,
        ceramics, glass, centerpiece
        """,
    "scissors": "clippers",
    "teddy bear": "stuffed animal, stuffed toy, plush, plush toy, beanie baby, bear",
    "hair drier": "blow drying, blow dry",
    "toothbrush": """
        brushing teeth, brushing his teeth, brushing her teeth, brushes teeth, tooth brushing, brush his teeth, brush
        her teeth, brush their teeth, brushing their teeth, brushes his teeth, brushes her teeth, brush teeth
        """,
}

#: Phrases that name no object, although their words may look like it.
NOTHING = """
    dog house, doghouse, dog food, dog bowl, dog bed, dog park, dog tag, dog collar, dog leash, dog toy, prairie dog,
    dog treat, dog crate, dog kennel, cat food, cat bed, cat tree, cat tower, cat toy, cat litter, hello kitty, kitty
    litter, cat tail, cattail, bird house, birdhouse, bird bath, birdbath, bird feeder, birdfeeder, bird cage,
    birdcage, bird 's eye, birds eye, bird eye, rubber duck, rubber ducky, rubber duckie, duck tape, sea horse, saw
    horse, sawhorse, rocking horse, hobby horse, horse shoe, horse trailer, gummy bear, bear claw, bull 's eye, bulls
    eye, bull horn, zebra crossing, zebra print, zebra stripe, giraffe print, cow print, cow bell, cowboy hat, cowboy
    boot, catcher 's mask, sheep skin, elephant ear, bean bag, crab cake, rice cake, pan cake, urinal cake, banana
    split, banana bread, banana tree, banana leaf, banana leaves, apple computer, apple laptop, apple logo, apple
    product, apple store, apple pie, apple juice, apple cider, apple sauce, apple iphone, apple tree, pine apple,
    orange juice, orange tree, hot dog stand, hot dog cart, hot dog vendor, pizza box, pizza hut, pizza shop, pizza
    place, pizza cutter, pizza parlor, pizza restaurant, pizza pan, pizza dough, pizza crust, pizza sauce, pizza
    delivery, donut shop, doughnut shop, donut box, cake pan, cake stand, cake mix, sandwich shop, sandwich board,
    burger king, train station, train track, train yard, train platform, train depot, train stop, train rail, train
    bridge, train crossing, train tunnel, train conductor, train terminal, car seat, car park, car wash, car lot, car
    door, car window, car mirror, box car, cable car station, side car, dining car, bumper car, side view mirror, taxi
    stand, taxi cab stand, bus stop, bus station, bus depot, bus lane, bus terminal, bus shelter, bus bench, bus
    route, truck stop, truck bed, hand truck, boat dock, boat ramp, boat trailer, boat house, boathouse, gravy boat,
    boat yard, plane ticket, jet ski, jet bridge, jet way, jet stream, jet engine, jet lag, bike rack, bike lane, bike
    path, bike helmet, bicycle rack, bicycle lane, bicycle path, bicycle helmet, motorcycle helmet, bike trail,
    motorcycle jacket, ship yard, shipyard, aircraft carrier, air craft carrier, aircraft hanger, aircraft hangar,
    airplane hangar, airplane hanger, semi circle, semi circular, semi formal, kite surfing, kite boarding, kite
    board, work bench, bench press, wheel chair, chair lift, ski lift chair, ski chair, electric chair, table tennis,
    pool table, table cloth, table lamp, table setting, operating table, changing table, ping pong table, table spoon,
    table saw, billiard table, massage table, air hockey table, foosball table, desk lamp, desk job, front desk,
    flower bed, flowerbed, bed of flowers, bed of rocks, bed of grass, bed of leaves, bed of lettuce, bed of rice, bed
    of straw, bed of hay, bed of dirt, bed of a truck, bed of truck, bed of the truck, bed of a pickup truck, bed of
    an old truck, river bed, pet bed, bed and breakfast, bed of greens, bed of spinach, bed of gravel, bed of noodles,
    bed side, bed room, bed sheet, bed spread, bed frame, bed of pasta, toilet paper, toilet roll, toilet brush,
    toilet tissue, toilet paper roll, toilet paper holder, toilet stall, toilet paper dispenser, toilet plunger, roll
    of toilet paper, rolls of toilet paper, toilet area, toiletry, toiletries, tv stand, tv show, tv tray, tv dinner,
    tv guide, tv program, tv console, tv station, tv antenna, television show, television stand, tv cabinet, monitor
    lizard, mouse pad, mousepad, mouse trap, mickey mouse, minnie mouse, toy mouse, remote area, remote location,
    remote field, remote road, remote control car, remote control plane, remote control airplane, remote control
    helicopter, remote controlled, remote beach, remote place, remote village, remote island, remote country, remote
    region, remote hillside, remote mountain, piano keyboard, musical keyboard, phone booth, telephone booth,
    telephone pole, telephone line, telephone wire, phone pole, pay phone, payphone, head phone, ear phone, phone box,
    phone line, telephone box, phone case, microwave dish, sink hole, oven mitt, oven mitten, oven glove, oven door,
    book shelf, book case, book store, book end, bookstore, clock work, fork in the road, fork lift, forklift, knife
    block, bowl cut, super bowl, rose bowl, bowl haircut, bottle opener, bottle cap, bottle rocket, cup holder, world
    cup, stanley cup, cup board, wine glass rack, suction cup, scissor lift, scissor kick, vase shaped, ball game,
    ball park, ballpark, ball field, ball cap, ball pit, ball gown, ball point, meat ball, meatball, melon ball, disco
    ball, cotton ball, rice ball, crystal ball, ball of yarn, ball of string, ball of fire, ball of fur, christmas
    ball, cheese ball, mirror ball, ball court, ball diamond, at bat, to bat, up to bat, bat signal, bat man, tennis
    racket case, skateboard park, skateboard ramp, skate board park, skateboard trick, skateboard rink, surfboard
    rack, snowboard lift, snowboard ramp, snowboard slope, snowboard park, snowboard jump, frisbee golf, umbrella
    stand, tie dye, tie dyed, zip tie, rail road tie, railroad tie, tie up, tie a, tie the, tie his, tie her, tie
    down, tie fighter, ties a, ties his, ties her, ties the, ties up, hair tie, tie back, to tie, ties that, twist
    tie, luggage claim, luggage cart, luggage carousel, luggage rack, luggage tag, luggage area, luggage trolley,
    luggage compartment, luggage conveyor, suitcase handle, baby stroller, baby crib, baby bottle, baby blue, baby
    grand, baby food, baby powder, baby seat, baby doll, babies breath, baby 's breath, baby gate, lady bug, ladybug,
    snow man, snowman, man made, manmade, gingerbread man, lego man, stick man, men 's room, mens room, women 's
    restroom, women 's room, men 's restroom, mens restroom, man hole, manhole, kid 's meal, dvd player, cd player,
    record player, music player, mp3 player, media player, video player, tape player, cassette player, blu ray player,
    passenger seat, passenger side, driver seat, driver 's seat, driver 's side, drivers seat, driver 's license,
    pedestrian crossing, pedestrian bridge, pedestrian walkway, pedestrian walk, pedestrian signal, pedestrian sign,
    king size, king sized, king bed, crowd control, child seat, children 's book, children 's bed, children 's toy,
    girl 's bedroom, boy 's bedroom, children 's bedroom, child 's bedroom, kid 's room, kid 's bedroom, child 's
    room, boy 's room, girl 's room, dream catcher, dog catcher, slow cooker, rice cooker, pressure cooker, bull
    dozer, tug of war, group of, couple of, team of, family of, crew of, pair of, flock of, cutting board, farmers
    market, farmer 's market, farmers ' market
    """

#: Phrases that name a person, unless the caption names an animal, whose young or parent may be meant.
OR_ANIMAL = """
    baby, mother, father, mom, mommy, mum, dad, daddy, parent, adult, infant, male, female, youth, youngster, friend,
    sister, brother, son, daughter, husband, wife
    """

#: Phrases of POSSIBLE that mean a person, unless the reference names an animal.
OF_ANIMALS = """
    he, she, him, her, his, hers, himself, herself, leg, foot, feet, family, couple, group, team, crew, who, adult,
    arm
    """

#: Words that name an object after an article or similar, at the end of a noun phrase: not "an orange cat", "a baseball
#: player" or "playing football".
AFTER_ARTICLE = {
    "orange": "orange",
    "baseball": "sports ball",
    "football": "sports ball",
    "basketball": "sports ball",
}
ARTICLES = "a an the one two three his her its their this that some another"
#: Words that may follow the end of such a phrase, unless a colour comes next ("an orange and white cat").
ENDS = """
    and or in on at with to of as by while during from into near through off over under beside above below across around
    between behind before after toward towards for that is are has was flying sitting lying laying next
    """
COLOURS = "white black blue red green yellow brown grey gray pink purple gold silver tan"
