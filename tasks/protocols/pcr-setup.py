"""PCR set-up and bead clean-up of three columns on an OT-2. Written for DeckBench; no lab's recipe.

It uses what the renderer of `deckbench pool synth` draws: thermocycler, temperature and magnetic module, tip racks,
plates, a reservoir, both kinds of pipette, tips that are used up, returned and thrown away, and a person who helps.
"""

from opentrons import protocol_api

metadata = {"protocolName": "PCR set-up and bead clean-up", "author": "DeckBench", "description": "An example."}
requirements = {"robotType": "OT-2", "apiLevel": "2.20"}
COLUMNS = 3


def run(ctx: protocol_api.ProtocolContext) -> None:
    tips = [ctx.load_labware("opentrons_96_tiprack_300ul", slot) for slot in ("4", "5")]
    single_tips = ctx.load_labware("opentrons_96_tiprack_300ul", "9")
    reservoir = ctx.load_labware("nest_12_reservoir_15ml", "2")
    samples = ctx.load_labware("nest_96_wellplate_100ul_pcr_full_skirt", "6", "samples")
    cycler = ctx.load_module("thermocyclerModuleV1")
    pcr = cycler.load_labware("nest_96_wellplate_100ul_pcr_full_skirt", "PCR")
    cooler = ctx.load_module("temperature module gen2", "3")
    mix = cooler.load_labware("opentrons_96_wellplate_200ul_pcr_full_skirt", "master mix")
    magnet = ctx.load_module("magnetic module gen2", "1")
    beads = magnet.load_labware("nest_96_wellplate_2ml_deep", "beads")
    multi = ctx.load_instrument("p300_multi_gen2", "left", tip_racks=tips)
    single = ctx.load_instrument("p300_single_gen2", "right", tip_racks=[single_tips])

    ctx.comment("Set-up")
    cycler.open_lid()
    cooler.set_temperature(4)

    for number in range(COLUMNS):
        multi.transfer(30, mix.columns()[number], pcr.columns()[number], new_tip="once")
    for number in range(COLUMNS):
        multi.pick_up_tip()
        multi.aspirate(20, samples.columns()[number][0])
        multi.dispense(20, pcr.columns()[number][0])
        multi.mix(2, 20)
        multi.drop_tip()

    for well in ("A4", "B4"):  # controls
        single.pick_up_tip()
        single.aspirate(25, reservoir["A1"])
        single.dispense(25, pcr[well])
        single.drop_tip()

    ctx.comment("Thermocycle")
    cycler.close_lid()
    cycler.set_lid_temperature(105)
    cycler.set_block_temperature(95, hold_time_seconds=120, block_max_volume=50)
    cycler.execute_profile(
        steps=[
            {"temperature": 95, "hold_time_seconds": 15},
            {"temperature": 60, "hold_time_seconds": 30},
            {"temperature": 72, "hold_time_seconds": 30},
        ],
        repetitions=25,
        block_max_volume=50,
    )
    cycler.set_block_temperature(4)
    cycler.open_lid()
    cycler.deactivate_lid()

    ctx.comment("Clean-up")
    for number in range(COLUMNS):
        multi.pick_up_tip()
        multi.aspirate(45, pcr.columns()[number][0])
        multi.dispense(45, beads.columns()[number][0])
        multi.mix(2, 40)
        multi.return_tip()
    magnet.engage(height_from_base=4.4)
    ctx.delay(minutes=2)
    for number in range(COLUMNS):
        multi.pick_up_tip(tips[1].columns()[number + 6][0])
        multi.aspirate(60, beads.columns()[number][0])
        multi.dispense(60, reservoir["A12"])
        multi.blow_out()
        multi.drop_tip()
    magnet.disengage()

    ctx.move_labware(samples, protocol_api.OFF_DECK)
    ctx.pause("Seal the plate on the thermocycler, then resume.")
    cycler.close_lid()
    cooler.deactivate()
    ctx.home()
